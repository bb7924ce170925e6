"The runs that came with the project: small, documented, and as good as their records say."
import json

import pytest

from i2v_paper.core import ROOT, Run
from i2v_paper.control import true_eta
from i2v_paper.data import load_clips
from i2v_paper.synthesis import SHIPPED, gain, load_run, run_of, spread

RUNS = sorted(p.name for p in SHIPPED.iterdir())


@pytest.mark.parametrize('name', RUNS)
def test_shipped_run_is_small_and_documented(name, tmp_path):
    run = run_of(name, tmp_path); record = run.record
    assert run.path == SHIPPED/name and sum(f.stat().st_size for f in run.path.iterdir()) < 12_000_000
    assert record['provenance']['commit'] and record['data']['drawn'] and record['settings']['preset'] in ('quick', 'small')
    assert '/' not in json.dumps(record['parameters']) and str(ROOT) not in (run.path/'run.json').read_text(encoding='utf-8')


@pytest.mark.parametrize('name', RUNS)
def test_shipped_run_does_what_its_record_says(name, tmp_path):
    run = run_of(name, tmp_path); system = load_run(run); s = system.settings
    clips = load_clips(s.dataset, 'test', s.frames, s.size, n=48, report=None); x = clips.batch(range(48)); told = json.loads((run.path/'metrics.json').read_text(encoding='utf-8'))
    assert gain(x[:, 1:], system.reconstruct(x), x[:, 0])['gain'] == pytest.approx(told['gain'], abs=.8)       # other clips than the record's 256
    X = system.futures(x[:16, 0], 3, eta=true_eta(s.control, clips, range(16)))
    assert spread(X) == pytest.approx(told['spread'], rel=.5)


@pytest.mark.parametrize('name', RUNS)
def test_front_page_offers_shipped_run(name):
    "Its name stands where a reader can copy the call, and what it makes moves on the page"
    page = (ROOT/'README.md').read_text(encoding='utf-8')
    assert f"'{name}'" in page and (not name.endswith('-s0') or f'(figures/{name}.webp)' in page)
