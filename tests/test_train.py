"The command of the README, as a stranger types it: pipes, mistakes, kills."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT/'nbs'/'train.ipynb'
PAPERMILL = Path(sys.executable).with_name('papermill')
SMOKE = ('-p', 'preset', 'smoke', '-p', 'dataset', 'iper')


def start(runs, *args, cwd=ROOT, stdin=subprocess.PIPE):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen([str(PAPERMILL), os.path.relpath(TRAIN, cwd), *args], cwd=cwd, env=env, stdin=stdin,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(p, seconds=300):
    out, err = p.communicate(timeout=seconds)
    return p.returncode, out, err


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A smoke run made by the command, with a pipe for standard input that stays open until the end"
    runs, before = tmp_path_factory.mktemp('runs'), TRAIN.read_bytes()
    p = start(runs, *SMOKE)
    status, out, err = finish(p)
    assert TRAIN.read_bytes() == before, 'the notebook was written over'
    assert status == 0, err
    return runs, out, err


def test_report_goes_to_the_run(trained):
    runs, out, err = trained
    run = runs/'iper-smoke-s0'
    report = json.loads((run/'train.ipynb').read_text())
    assert any(o.get('data', {}).get('image/png') for c in report['cells'] for o in c.get('outputs', []))
    text = json.dumps(report)
    assert 'drawn stand-in' in text and 'future 5' in text
    assert out == '' and 'train.ipynb' in err.splitlines()[-1]
    assert not list(runs.glob('.train*')) and not (run/'lock').exists()


def test_progress_is_live(trained):
    _, _, err = trained
    for stage in ('embedder', 'video', 'latents', 'dynamics'): assert any(l.startswith(stage) for l in err.splitlines()), err


@pytest.mark.skipif(sys.platform == 'win32', reason='no pseudo-terminals on Windows')
def test_in_a_terminal_one_line_is_rewritten(trained):
    import pty
    runs, before = trained[0], TRAIN.read_bytes()
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    p = subprocess.Popen([str(PAPERMILL), 'nbs/train.ipynb', *SMOKE, '-p', 'stage', 'embedder', '-p', 'run', 'tty'], cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs); text = b''
    try:
        while part := os.read(ours, 65536): text += part
    except OSError: pass                                         # how Linux says that the other side has closed
    assert p.wait(60) == 0 and TRAIN.read_bytes() == before
    live = [l for l in text.decode().replace('\r\n', '\n').split('\r') if l.startswith('embedder')]
    assert len(live) > 1 and 'left' in live[0] and '8/8' in live[-1], text.decode()
    assert (runs/'tty/train.ipynb').exists()


def test_run_remembers(trained):
    runs, _, _ = trained
    r = json.loads((runs/'iper-smoke-s0/run.json').read_text())
    assert r['parameters']['dataset'] == 'iper' and r['settings']['z_dim'] == 8 and r['sources']['adam_betas'] == 'supplement B.2'
    assert r['data']['drawn'] and len(r['data']['fingerprint']) >= 16
    assert set(r['seconds']) == {'embedder', 'video', 'dynamics'} and r['peak_memory_gb'] > .1
    assert r['provenance']['versions']['torch'] and 'commit' in r['provenance']
    m = json.loads((runs/'iper-smoke-s0/metrics.json').read_text())
    assert m['data'] == 'drawn stand-in' and m['n'] == 16 and np.isfinite(m['nll'])


def test_finished_run_is_not_trained_again(trained):
    runs, _, _ = trained
    files = {p: p.stat().st_mtime_ns for p in (runs/'iper-smoke-s0').glob('*.safetensors')}
    status, _, err = finish(start(runs, *SMOKE, cwd=ROOT/'nbs', stdin=subprocess.DEVNULL))
    assert status == 0, err
    assert files and files == {p: p.stat().st_mtime_ns for p in files}


def frames(folder, n, size=(40, 30)):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n): Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder/f'frame{i + 7}.jpg')


def landscape(root, kind):
    if kind == 'missing': return root/'nowhere'
    if kind == 'empty': (root/'empty').mkdir(); return root/'empty'
    for split in ('sky_train', 'sky_test'):
        for v in 'ab': frames(root/kind/split/f'{split}{v}'/f'{split}{v}_1', 5 if kind == 'short' else 20)
    if kind == 'truncated':
        f = root/kind/'sky_train/sky_traina/sky_traina_1/frame12.jpg'; f.write_bytes(f.read_bytes()[:300])
    return root/kind


MISTAKES = {
    'parameter': (('-p', 'datset', 'iper'), "'dataset'"),
    'dataset': (('-p', 'dataset', 'ipr'), "'iper'"),
    'preset': (('-p', 'preset', 'huge'), 'quick'),
    'seed': (('-p', 'seed', 'x'), 'int'),
    'missing': ('missing', 'data_dir'), 'empty': ('empty', 'sky_train'), 'short': ('short', '5'), 'truncated': ('truncated', 'frame12.jpg'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_told_in_a_few_lines(mistake, trained, tmp_path):
    runs, _, _ = trained
    before = {p: p.read_bytes() for p in runs.rglob('*') if p.is_file() and 'cache' not in p.parts}
    args, word = MISTAKES[mistake]
    if isinstance(args, str): args = ('-p', 'dataset', 'landscape', '-p', 'preset', 'smoke', '-p', 'data_dir', str(landscape(tmp_path, args)))
    status, out, err = finish(start(runs, *args))
    said = err[err.index('Problem: '):].strip().splitlines()
    assert status == 1 and out == '' and len(said) <= 5, err
    assert word in '\n'.join(said)
    assert before == {p: p.read_bytes() for p in runs.rglob('*') if p.is_file() and 'cache' not in p.parts}, 'an earlier run was touched'


def same(a, b):
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def test_killed_kernel_continues_to_the_same_weights(trained, tmp_path):
    "SIGKILL for the kernel in the middle of the command, then the command again"
    runs, _, _ = trained
    p = start(tmp_path, *SMOKE)
    deadline = time.time() + 240
    while not (tmp_path/'iper-smoke-s0/embedder.safetensors').exists(): assert time.time() < deadline and p.poll() is None; time.sleep(.05)
    kernel = int((tmp_path/'iper-smoke-s0/lock').read_text()); os.kill(kernel, signal.SIGKILL)
    status, _, err = finish(p)
    assert status == 1 and 'repeat the command' in err
    status, _, err = finish(start(tmp_path, *SMOKE))
    assert status == 0, err
    for stage in ('embedder', 'video', 'dynamics'): assert same(tmp_path/f'iper-smoke-s0/{stage}.safetensors', runs/f'iper-smoke-s0/{stage}.safetensors'), stage


@pytest.mark.parametrize('stage, at', [('embedder', 3), ('video', 2), ('video', 6), ('dynamics', 11)])
def test_interrupted_inside_a_stage(stage, at, tmp_path, monkeypatch):
    "Interrupted after a checkpoint inside each stage (in `video`: before and after the critics join), and continued"
    from i2v_paper import core, dynamics, synthesis, video
    from i2v_paper.data import load_clips
    s = core.settings('iper', 'smoke')
    clips = load_clips('iper', 'train', s.frames, s.size, n=16, report=None, cache=tmp_path/'cache')
    armed = {'on': False}

    def fragile(run, name, steps, modules, optimizers, step, *args, **kw):
        def breaking(k, g):
            if armed['on'] and name == stage and k == at: armed['on'] = False; raise KeyboardInterrupt
            return step(k, g)
        return core.train_stage(run, name, steps, modules, optimizers, breaking, *args, save_every=0., **kw)

    for module in (video, dynamics): monkeypatch.setattr(module, 'train_stage', fragile)

    def go(name):
        run = core.open_run(name, s, {'seed': 0}, {'fingerprint': clips.fingerprint}, where=tmp_path)
        synthesis.train_run(run, s, clips)
        return run

    whole, armed['on'] = go('whole'), True
    with pytest.raises(KeyboardInterrupt): go('broken')
    assert (tmp_path/'broken'/f'{stage}.partial.safetensors').exists()
    broken = go('broken')
    for f in ('embedder', 'video', 'dynamics'): assert same(whole.file(f), broken.file(f)), f
    assert (whole.path/f'log-{stage}.csv').read_text() == (broken.path/f'log-{stage}.csv').read_text()


def test_control_takes_the_first_stages_and_trains_its_flow(tmp_path):
    args = ('-p', 'preset', 'smoke', '-p', 'dataset', 'bair')
    status, _, err = finish(start(tmp_path, *args)); assert status == 0, err
    status, _, err = finish(start(tmp_path, *args, '-p', 'control', 'endpoint')); assert status == 0, err
    assert 'first stages taken from bair-smoke-s0' in err
    plain, told = tmp_path/'bair-smoke-s0', tmp_path/'bair-smoke-s0-endpoint'
    assert (plain/'video.safetensors').read_bytes() == (told/'video.safetensors').read_bytes()
    wider = {k for k, v in load_file(told/'dynamics.safetensors').items() if v.shape != load_file(plain/'dynamics.safetensors')[k].shape}
    assert wider and json.loads((told/'run.json').read_text())['first_stages_of'] == 'bair-smoke-s0'
    status, _, err = finish(start(tmp_path, *SMOKE, '-p', 'control', 'endpoint'))
    assert status == 1 and 'do not tell' in err and 'Traceback' not in err
    status, _, err = finish(start(tmp_path, *args, '-p', 'control', 'endpiont'))
    assert status == 1 and "did you mean 'endpoint'" in err


def test_a_video_stage_begins_with_that_of_another_run(trained, tmp_path):
    runs, _, _ = trained
    status, _, err = finish(start(runs, *SMOKE, '-p', 'start', 'iper-smoke-s0', '-p', 'run', 'second', '-p', 'stage', 'video')); assert status == 0, err
    record = json.loads((runs/'second'/'run.json').read_text()); assert record['began_with']['run'] == 'iper-smoke-s0' and record['settings']['start'] == 'iper-smoke-s0'
    first, second = (load_file(runs/n/'video.safetensors') for n in ('iper-smoke-s0', 'second')); assert any(not (first[k] == second[k]).all() for k in first)      # and goes on from there
    status, _, err = finish(start(runs, *SMOKE, '-p', 'start', 'bair-small-s0', '-p', 'run', 'third', '-p', 'stage', 'video'))
    assert status == 1 and 'another video network' in err and '-p start none' in err and 'Traceback' not in err and not (runs/'third').exists(), err
