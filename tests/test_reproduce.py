"The whole paper in one command: from nothing, killed, repeated, with a run deleted, with a line changed; and where its numbers stand."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from i2v_paper.claims import HYPOTHESES, READS, SECTIONS, claims_table, write_overview
from i2v_paper.paper import PUBLISHED
from i2v_paper.steps import Notes, Step, call, paper_steps, survey

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT/'figures'


def start(runs, *args):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen([str(Path(sys.executable).with_name('papermill')), 'nbs/reproduce.ipynb', *args], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(p): out, err = p.communicate(timeout=900); return p.returncode, err


def plan(runs, root=ROOT):
    "Steps and notes of the smoke plan, as the command has them"
    folder = runs/'reproduce-smoke'; return paper_steps('smoke', (0,), '', str(folder/'figures')), Notes(folder/'steps', runs, folder/'figures', root=root)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Made from nothing by the command, which is killed when its first step has ended, and repeated"
    runs = tmp_path_factory.mktemp('runs'); first = runs/'reproduce-smoke'/'steps'/'train-dtdb-clouds.json'; p = start(runs, '-p', 'preset', 'smoke'); end = time.time() + 600
    while not (first.exists() and 'made' in json.loads(first.read_text())): assert p.poll() is None and time.time() < end, p.communicate()[1]; time.sleep(.1)
    os.killpg(p.pid, signal.SIGKILL); p.communicate(); was = first.stat().st_mtime_ns
    status, err = finish(start(runs, '-p', 'preset', 'smoke')); assert status == 0, err
    assert first.stat().st_mtime_ns == was, 'what was made before the kill was made again'
    assert re.search(r'[1-9] up to date, \d+ made', err)               # two run at once: the second may have ended too
    return runs


def test_everything_is_there_with_its_source(made):
    folder = made/'reproduce-smoke'; where = folder/'figures'; steps, notes = plan(made); results, sources = (json.loads((where/f).read_text()) for f in ('results.json', 'sources.json'))
    assert {s.kind for s in steps.values()} == {'run', 'scores', 'obedience', 'published', 'table', 'figure', 'claim'} and set(survey(steps, notes).values()) == {'up to date'}
    assert {'runs', 'compared', 'scores', 'obedience', 'claims'} <= set(results) and 'minutes' not in json.dumps(results)
    check_sources(where); assert sources['tables/diversity-textures.md']['notebook'] == 'nbs/tables.ipynb' and sources['clouds.webp']['parameters']['which'] == 'clouds' and sources['clouds.webp']['fingerprint']
    r = {c['claim']: c for c in results['claims']['A.3-smoke']['records']}
    assert r['sharp_clouds']['n'] == 16 and r['sharp_clouds']['low'] <= r['sharp_clouds']['value'] <= r['sharp_clouds']['high'] and r['dg_motion'] | dict(verdict='no run', command='papermill nbs/train.ipynb -p dataset dtdb-clouds -p preset smoke -p system dg') == r['dg_motion']
    report = (folder/'report.md').read_text(); assert 'A.3 | our futures of clouds are sharp' in report and (folder/'reproduce.ipynb').exists()
    for link in re.findall(r'\]\(([^)]+)\)', report): assert (folder/link).exists(), link


def test_a_deleted_run_costs_what_depends_on_it(made):
    run = made/'dtdb-clouds-smoke-s0-al'; run.rename(made/'aside')
    try: steps, notes = plan(made); states = survey(steps, notes)
    finally: (made/'aside').rename(run)
    assert {n: v for n, v in states.items() if v != 'up to date'} == {'train-dtdb-clouds-al': 'gone'} | dict.fromkeys(('publish-dtdb-clouds-al', 'table-diversity-textures', 'figure-clouds', 'claims-A.3'), 'waits')


def test_a_changed_line_costs_what_used_it(made, tmp_path):
    shutil.copytree(ROOT/'i2v_paper', tmp_path/'i2v_paper', ignore=shutil.ignore_patterns('weights', '__pycache__')); shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('[0-9]*', '.*'))
    def states(): return {n: v for n, v in survey(*plan(made, tmp_path)).items() if v != 'up to date'}
    def change(file, old, new): f = tmp_path/'i2v_paper'/file; text = f.read_text(); assert text.count(old) == 1; f.write_text(text.replace(old, new))
    assert not states()
    change('metrics.py', 'def pair_mse(f):\n', 'def pair_mse(f):\n    # a remark\n'); assert not states(), 'a remark'
    change('metrics.py', '(2/(f.shape[1] - 1)*dev', '(1/(f.shape[1] - 1)*dev'); assert states() == {'evaluate-dtdb-clouds': 'its code'} | dict.fromkeys(('publish-dtdb-clouds', 'table-diversity-textures', 'claims-A.3'), 'waits')
    change('compared/al.py', 'class AL(', 'MORE = 1\nclass AL(')
    assert states()['train-dtdb-clouds-al'] == 'its code' and 'train-dtdb-clouds' not in states()


def test_made_again_the_results_are_the_same(made):
    where = made/'reproduce-smoke'/'figures'; old = (where/'results.json').read_bytes(), (where/'claims.md').read_bytes()
    for run in ('dtdb-clouds-smoke-s0', 'dtdb-clouds-smoke-s0-al'): shutil.rmtree(made/run)
    (where/'results.json').unlink(); status, err = finish(start(made, '-p', 'preset', 'smoke')); assert status == 0, err
    assert ((where/'results.json').read_bytes(), (where/'claims.md').read_bytes()) == old
    assert '2 up to date' in err                                            # the runs came out equal, so table and figure stand


def test_the_plan_and_its_makefile_run_nothing(tmp_path):
    status, err = finish(start(tmp_path, '-p', 'only', 'table2', '-p', 'makefile', 'True')); text = (tmp_path/'reproduce-quick'/'Makefile').read_text()
    assert status == 0 and 'will run' in err and not (tmp_path/'iper-quick-s0').exists() and 'landscape' not in text
    rules = dict(re.findall(r'^(\S+):((?: \S+)*)\n\t-papermill nbs/reproduce\.ipynb -p preset quick .*-p only \1 -p alone True$', text, re.M)); assert 'train-iper-srvp' in rules['evaluate-iper-srvp'] and 'publish-iper-srvp' in rules['table-diversity-iper']
    if shutil.which('make'): assert subprocess.run(['make', '-n', '-f', str(tmp_path/'reproduce-quick'/'Makefile'), 'table-diversity-iper'], capture_output=True, text=True).stdout.count('papermill') == len(rules)


def test_a_step_that_fails_says_why():
    assert 'did you mean' in call(Step('x', 'train', dict(dataset='ipr'), 'run', ()))


def test_every_preset_has_its_plan():
    for preset in ('quick', 'small', 'paper'):
        steps = paper_steps(preset, (1, 2)); assert {f'claims-{s}' for s in SECTIONS} <= set(steps) and {'train-bair-s1', 'train-bair-endpoint-s2', 'figure-endpoint_bair', 'table-landscape'} <= set(steps) and set(READS) == set(SECTIONS)
        assert steps['claims-A.4'].given['seeds'] == '1,2' and 'train-bair-s2' in steps['claims-A.4'].wants and 'obey-bair-s1' in steps['claims-A.5'].wants
    small = paper_steps('small'); assert 'train-dtdb-clouds' in small['train-landscape'].wants and 'train-dtdb-clouds' not in paper_steps('quick')['train-landscape'].wants      # begins with its video stage
    assert 'obey-bair' not in (real := paper_steps('paper', (0,), 'data')) and real['train-bair'].given['data_dir'] == 'data/bair' and real['figure-clouds'].given['real']


# --- where the numbers stand

def check_sources(where):
    import hashlib
    sources = json.loads((where/'sources.json').read_text(encoding='utf-8')); told = {'results.json', 'sources.json', 'costs.json', 'gallery.md'}
    for f in where.rglob('*'):
        if not f.is_file() or (name := f.relative_to(where).as_posix()) in told: continue
        assert name in sources, f'{name} has no source'; s = sources[name]
        assert re.fullmatch(r'nbs/\w+\.ipynb', s['notebook']) and (ROOT/s['notebook']).exists() and isinstance(s['parameters'], dict) and s['command'].startswith(f"papermill {s['notebook']}"), name
        assert s['sha256'] == hashlib.sha256(f.read_bytes()).hexdigest(), f'{name} is not what its source says: papermill nbs/reproduce.ipynb'
        assert s.get('commit') or s.get('read') == 'results.json', name


def numbers(data):
    "All numbers in nested data"
    if isinstance(data, bool) or data is None: return []
    if isinstance(data, (int, float)): return [data]
    return [n for v in (data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()) for n in numbers(v)]


def known():
    held = [n for f in ('results.json', 'costs.json') for n in numbers(json.loads((FIGURES/f).read_text(encoding='utf-8')))]
    return held + [100*n for n in held] + [p.value for p in PUBLISHED]


def strangers(text, values):
    "Numbers with a point in a text that are none of the values, rounded as the text has them"
    found = set(re.findall(r'(?<![\w./-])-?\d+\.\d+(?![\w.]|/\d)', text)); return sorted(n for n in found if not any(f'{v:.{len(n.split(".")[1])}f}' == n.lstrip('+') or f'{-v:.{len(n.split(".")[1])}f}' == n for v in values))


def test_committed_artefacts_have_their_sources(): check_sources(FIGURES)


def test_numbers_in_captions_are_in_results():
    values = known(); sources = json.loads((FIGURES/'sources.json').read_text(encoding='utf-8'))
    for name, s in sources.items():
        if s.get('caption') and name != 'fig1_decoder.png': assert not (bad := strangers(re.sub(r'`[^`]*`|[A-C]\.\d', '', s['caption']), values)), (name, bad)      # the decoder's parameters are counted, not measured
    assert strangers('a gain of 123.456', values) == ['123.456']


def test_tables_of_the_front_page_are_those_of_results():
    nb, space = nbformat.read(ROOT/'nbs'/'index.ipynb', as_version=4), {}
    for cell in (c for c in nb.cells if c.cell_type == 'code'):
        *head, last = cell.source.strip().splitlines(); exec('\n'.join(head), space); shown = eval(last, space); text = getattr(shown, 'data', None) or shown._repr_markdown_()
        assert any(''.join(o.get('data', {}).get('text/markdown', '')) == text for o in cell.outputs), last


def test_numbers_in_the_prose_of_the_front_page_are_in_results():
    text = (ROOT/'README.md').read_text(encoding='utf-8'); prose = '\n'.join(l for l in text.splitlines() if not l.startswith('|') and '`' not in l); prose = re.sub(r'Python 3\.11', '', prose)
    assert not strangers(prose, known())


def test_numbers_in_the_prose_of_notebooks_are_printed_there_or_in_results():
    "What a notebook says in words, it has just printed; or it was measured by a run, and stands in results.json, under `measured` if by a trial that left no run"
    values, bad = known(), {}; facts = {'02_data': ['0.6406'], '11_cinn': ['1.36'], '18_paper': ['4.3'], 'bair': ['30.06']}      # middle of BAIR's workspace; Kolmogorov's and Student's quantiles; gigabytes
    for p in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in p.parts: continue
        cells = nbformat.read(p, as_version=4).cells; prose = '\n'.join(c.source for c in cells if c.cell_type == 'markdown'); prose = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|arXiv:\S+|Python 3\.11', ' ', prose, flags=re.S)
        shown = '\n'.join(c.source + json.dumps([{k: v for k, v in o.get('data', {'text': o.get('text', '')}).items() if not k.startswith('image')} for o in c.outputs]) for c in cells if c.cell_type == 'code')
        if missing := strangers(prose, values + [float(n) for n in facts.get(p.stem, [])] + [float(n) for n in re.findall(r'(?<![\w.])\d*\.?\d+(?:e-?\d+)?', shown)]): bad[p.stem] = missing
    assert not bad


def test_committed_claims_are_those_of_results(tmp_path):
    held = json.loads((FIGURES/'results.json').read_text(encoding='utf-8')).get('claims', {})
    for name, c in held.items(): assert claims_table(c['records']).data in (FIGURES/'claims'/f'{name}.md').read_text(encoding='utf-8') and {r['claim'] for r in c['records']} == {n for n, h in HYPOTHESES.items() if h.section == c['section']}, name
    if held: (tmp_path/'results.json').write_text(json.dumps(dict(claims=held))); assert write_overview(tmp_path).read_text() == (FIGURES/'claims.md').read_text()
