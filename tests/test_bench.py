"The command that measures this machine: where its report goes, what it writes, what it refuses"
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from i2v_paper.bench import bench, sample_files, verdict
from i2v_paper.core import Problem
from i2v_paper.data import Windows, load_clips
from i2v_paper.formats import Pictures

ROOT = Path(__file__).resolve().parent.parent
BENCHMARK = ROOT/'nbs'/'benchmark.ipynb'


def command(runs, *args):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    p = subprocess.run([str(Path(sys.executable).with_name('papermill')), 'nbs/benchmark.ipynb', *args], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    return p.returncode, p.stdout, p.stderr


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    runs, before = tmp_path_factory.mktemp('runs'), BENCHMARK.read_bytes()
    status, out, err = command(runs, '-p', 'what', 'data', '-p', 'seconds', '0.01', '-p', 'standins', 'dtdb')
    assert status == 0, err
    assert BENCHMARK.read_bytes() == before, 'the notebook was written over'
    return runs, out, err


def test_report_and_numbers_lie_together(measured):
    runs, out, err = measured
    assert sorted(f.name for f in (runs/'benchmark').iterdir()) == ['benchmark.ipynb', 'benchmark.json'] and not list(runs.glob('.benchmark*'))
    assert out == '' and 'benchmark.ipynb' in err.splitlines()[-1]
    cells = json.loads((runs/'benchmark/benchmark.ipynb').read_text())['cells']
    shown = [o for c in cells for o in c.get('outputs', [])]
    assert any('image/png' in o.get('data', {}) for o in shown) and any('ratios to' in ''.join(o.get('data', {}).get('text/markdown', '')) for o in shown)
    assert 'holds: "read 128 px, bytes"' in err


def test_what_a_row_says(measured):
    kept = json.loads((measured[0]/'benchmark/benchmark.json').read_text()); rows = {r['name']: r for r in kept['sections']['data']}
    assert list(rows) == ['draw dtdb, 64 px', 'draw dtdb, 128 px', 'decode JPEG, 640 x 360', 'decode mp4, 640 x 360', 'decode TFRecord, 64 x 64',
                          *(f'read {s} px, {k}' for s in (64, 128) for k in ('bytes', 'floats', 'augmented'))]
    for r in rows.values():
        assert 0 < r['best'] <= r['median'] and r['repeats'] >= 3 and r['n'] > 0 and r['unit'] == 'clips' and r['machine'] == kept['machine'] and 'torch' in r['machine']
        assert abs(r['rate']*r['best']/r['n'] - 1) < 1e-9
    assert kept['parameters'] == dict(what='data', seconds=.01, standins='dtdb', systems='all', run='benchmark') and kept['provenance']['cores'] == os.cpu_count()
    v, = kept['verdicts']
    assert v['holds'] and v['at_least'] == 10 and abs(v['ratio']*rows[v['slow']]['rate']/rows[v['fast']]['rate'] - 1) < 1e-9
    assert rows['read 128 px, bytes']['rate'] > rows['read 128 px, floats']['rate'] > rows['read 128 px, augmented']['rate']


@pytest.mark.parametrize('args, word', [(('standins', 'ipr'), "did you mean 'iper'"), (('seconds', '-1.0'), 'seconds = -1.0')])
def test_mistakes_are_told_in_a_few_lines(tmp_path, args, word):
    status, out, err = command(tmp_path, '-p', *args)
    said = err[err.index('Problem: '):].strip().splitlines()
    assert status == 1 and out == '' and word in '\n'.join(said) and len(said) <= 4, err
    assert not (tmp_path/'benchmark/benchmark.json').exists()


def test_a_slow_cache_is_found_out(monkeypatch):
    "Clips out of the cache hold the claim; out of a cache that decodes again they do not"
    with sample_files() as folder:
        jpeg = Pictures(sorted((folder/'clips/train/video0').iterdir())); decoded = lambda n: [None for _ in zip(range(17*n), jpeg.frames(64))]
        clips = load_clips('folder', 'train', 16, 64, data_dir=folder/'clips', cache=folder/'cache', report=None)
        rows = [bench('decode', lambda: decoded(2), 2, .01), bench('read', lambda: clips.video[[3, 20]], 2, .01)]
        read = Windows.__getitem__
        monkeypatch.setattr(Windows, '__getitem__', lambda self, i: (decoded(2), read(self, i))[1])
        rows.append(bench('read again', lambda: clips.video[[3, 20]], 2, .01))
    good, bad = verdict(rows, 'read', 'decode'), verdict(rows, 'read again', 'decode')
    assert good.holds and repr(good).startswith('holds') and not bad.holds and repr(bad).startswith('FAILS') and bad.ratio < 5


def test_rows_cannot_be_free():
    with pytest.raises(Problem, match='takes some time'): bench('nothing', lambda: None, 1, seconds=0.)
