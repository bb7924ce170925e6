"Two processes are one: losses, checkpoints, scores; and one that dies is named."
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from i2v_paper.core import Log, Problem, open_run, settings, step_generator
from i2v_paper import train
from i2v_paper.train import GONE, USUAL, last_words, run_together

ROOT = Path(__file__).resolve().parent.parent
CHANGE = dict(video_batch=8, embed_batch=8, flow_batch=16, critic_start=.25, official_losses=True, disc_frames=6, embed_percep=.5, gp_every=2, control='endpoint',
              video_lr=1e-6, critic_lr=1e-6, embed_lr=1e-6, flow_lr=1e-6, video_steps=5, embed_steps=2, flow_steps=6, flow_agree=.5)      # a small rate: what a sum's rounding moves, Adam's first steps would enlarge
JOB = f'''
import sys; from pathlib import Path
from i2v_paper import core, dynamics, scale, synthesis, video
from i2v_paper.data import load_clips
where, name, accumulate, stop = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
device = scale.join('cpu'); rank, n = core.world(); s = core.settings('bair', 'smoke', accumulate=accumulate, **{CHANGE!r})
with scale.first_then_others(): clips = load_clips('bair', 'train', s.frames, s.size, n=32, report=None, cache=where/'cache')
if rank == 0: core.open_run(name, s, dict(seed=0), dict(fingerprint=clips.fingerprint), where=where)
scale.wait(); stage = core.train_stage
def every_step(run, name, steps, modules, opts, step, *a, **k):
    def fragile(i, g):
        if name == 'video' and i == stop: raise KeyboardInterrupt
        return step(i, g)
    return stage(run, name, steps, modules, opts, fragile, *a, **(k | dict(log_every=1, save_every=0.)))
for m in (video, dynamics): m.train_stage = every_step
synthesis.train_run(core.Run(where/name), s, clips)
if rank == 0: core.close_run(core.Run(where/name))
scale.leave()
'''


def port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]


FORKS = multiprocessing.get_context('forkserver'); FORKS.set_forkserver_preload(['torch', 'i2v_paper.train'])      # one process imports, those of a job are its forks


def begin(code, args, env, out, err):
    "What a fork does: its output into files, its number in the environment, then the code as `python -c` would run it"
    for fd, file in ((1, out), (2, err)): os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), fd)
    for k in ('RANK', 'WORLD_SIZE'): os.environ.pop(k, None)
    os.environ.update(env); sys.argv = ['-c', *args]; torch.set_num_threads(1); exec(code, {'__name__': '__main__'})


def processes(n, code, *args, seconds=400):
    "Runs code in n processes as a launcher would; their exit codes and what they wrote to stdout and stderr"
    common = dict(OMP_NUM_THREADS='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port()))
    with tempfile.TemporaryDirectory() as d:
        files = [(f'{d}/{r}.out', f'{d}/{r}.err') for r in range(n)]
        ps = [FORKS.Process(target=begin, args=(code, [str(a) for a in args], common | (dict(RANK=str(r), WORLD_SIZE=str(n), LOCAL_RANK=str(r)) if n > 1 else {}), *files[r])) for r in range(n)]
        for p in ps: p.start()
        try:
            for p in ps: p.join(seconds)
            assert all(p.exitcode is not None for p in ps), f'still running after {seconds} s'
            return [p.exitcode for p in ps], [tuple(Path(f).read_text() for f in pair) for pair in files]
        finally:
            for p in ps:
                if p.exitcode is None: p.kill()


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    "A run of one process"
    where = tmp_path_factory.mktemp('runs'); codes, out = processes(1, JOB, where, 'one', 1, -1); assert codes == [0], out[0][1]; return where


def same(a, b, tol=1e-5):
    for stage in ('embedder', 'video', 'dynamics'):
        A, B = (Log(r/f'log-{stage}.csv').rows for r in (a, b)); assert len(A) == len(B) > 1
        for x, y in zip(A, B):
            assert x.keys() == y.keys()
            for k in x: assert abs(float(x[k] or 0) - float(y[k] or 0)) <= tol*(1 + abs(float(x[k] or 0))), (stage, x['step'], k, x[k], y[k])


def test_losses_are_those_of_one_process_with_the_whole_batch(one, n=2, accumulate=2):
    "Eight clips of one process, or two and two of each of two: all terms of all stages, with penalty and D_S's first batch"
    codes, out = processes(n, JOB, one, f'n{n}a{accumulate}', accumulate, -1); assert codes == [0]*n, out[0][1] + out[-1][1]
    same(one/'one', one/f'n{n}a{accumulate}'); gp = [float(r['gp']) for r in Log(one/'one'/'log-video.csv').rows if r.get('gp')]; assert len(gp) == 2 and min(gp) > 1e-5
    assert not list((one/f'n{n}a{accumulate}').glob('.latents*')) and Log(one/'one'/'log-video.csv').rows[0]['total'] != '0'


TURNED = '''
import sys, torch; from pathlib import Path
from i2v_paper import core, dynamics, scale
from i2v_paper.control import eta
where, name = Path(sys.argv[1]), sys.argv[2]; scale.join('cpu'); g = torch.Generator().manual_seed(0); N, V = 24, 8
s = core.settings('dtdb-clouds', 'smoke', control='direction', flow_turns=True, flow_agree=1., flow_lr=1e-6, flow_batch=16, flow_steps=6)
L = dict(mu=torch.randn(N*V, s.z_dim, generator=g), logvar=torch.zeros(N*V, s.z_dim), code=torch.randn(N*V, s.embed_dim, generator=g), mirrored=torch.rand(N*V, generator=g) < .5, eta=eta('direction', 6*torch.rand(N*V, generator=g).numpy()))
if core.world()[0] == 0: core.open_run(name, s, dict(seed=0), dict(fingerprint=''), where=where)
scale.wait(); stage = core.train_stage; dynamics.train_stage = lambda *a, **k: stage(*a, **(k | dict(log_every=1)))
dynamics.train_dynamics(core.Run(where/name), s, L, videos=range(N)); scale.leave()
'''


def test_agreement_of_turned_views_is_that_of_one_process(tmp_path):
    "Pairs of views are dealt out whole"
    for n in (1, 2): codes, out = processes(n, TURNED, tmp_path, f'n{n}'); assert codes == [0]*n, out[0][1] + out[-1][1]
    A, B = (Log(tmp_path/f'n{n}'/'log-dynamics.csv').rows for n in (1, 2)); assert len(A) == len(B) == 6 and float(A[0]['far']) > .1
    for x, y in zip(A, B):
        for k in ('nll', 'far'): assert abs(float(x[k]) - float(y[k])) < 1e-5, (k, x, y)


def test_a_run_of_two_continues_in_one(one):
    codes, out = processes(2, JOB, one, 'moved', 1, 3); assert all(codes) and (one/'moved/video.partial.safetensors').exists()
    (one/'moved/lock').unlink(missing_ok=True); codes, out = processes(1, JOB, one, 'moved', 2, -1); assert codes == [0], out[0][1]
    same(one/'one', one/'moved'); assert not (one/'moved/video.partial.safetensors').exists()


SCORES = '''
import json, sys; from pathlib import Path
import torch
from i2v_paper import protocol, scale
from i2v_paper.core import world
from i2v_paper.features import feature_net
from i2v_paper.synthesis import load_run
where = Path(sys.argv[1]); scale.join('cpu'); protocol.CACHE = where/'cache'; model = load_run(where/'one'); model.settings = __import__('dataclasses').replace(model.settings, control=''); model.animate = None
with scale.first_then_others(): nets = {n: protocol.network(n) for n in ('FID-EffLite0', 'EffLite0 MSE')}
model.lengthen = lambda x0, times, n, seed, eta=None: x0[:, None, None].expand(-1, n, 8*times, -1, -1, -1) + .1*torch.randn(len(x0), n, 8*times, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
m = protocol.gather(model, model.settings, None, 20, 2, 0, chunk=8); assert len(m.real) == (20 if world()[1] == 1 else (12, 8)[world()[0]])
records = [r for n in nets for r in protocol.measure(n, m, nets[n], where/'features')]
if world()[0] == 0: print(json.dumps([{k: r[k] for k in ('metric', 'system', 'value', 'low', 'high', 'floor', 'n')} for r in records]))
scale.leave()
'''


def test_scores_are_those_of_one_process(one):
    found = []
    for n in (1, 2): codes, out = processes(n, SCORES, one); assert codes == [0]*n, out[0][1] + out[-1][1]; found.append(json.loads(out[0][0].splitlines()[-1]))
    assert [r['n'] for r in found[1]] == [20]*6
    for a, b in zip(*found):
        assert (a['metric'], a['system']) == (b['metric'], b['system'])
        for k in ('value', 'low', 'high', 'floor'): assert a[k] == b[k] or abs(a[k] - b[k]) <= 1e-4*(1 + abs(a[k])), (a, b)


LONG = 'import dataclasses, sys; from i2v_paper import core, train; old = core.settings; train.settings = lambda *a, **k: dataclasses.replace(old(*a, **k), embed_steps=100_000); train.main(sys.argv[1:])'


def test_a_process_that_is_killed_ends_the_job_and_is_named(tmp_path):
    given = USUAL | dict(dataset='bair', preset='smoke', stage='embedder', device='cpu'); run = open_run('killed', settings('bair', 'smoke'), given, dict(fingerprint=''), where=tmp_path); seen = []
    def kill(started):
        seen[:] = started
        if any(l.startswith('embedder') for l in last_words(run.path/'worker-0.log')): started[1].kill()
    with pytest.raises(Problem) as e: run_together(given, 2, run, command=(sys.executable, '-c', LONG), look=kill)
    assert str(e.value).startswith('process 1 of 2 was killed by signal 9') and 'repeat the command' in str(e.value)
    assert len(seen) == 2 and all(p.returncode is not None for p in seen), 'a process was left behind'


def test_under_a_launcher_the_survivor_says_why_it_ends():
    "Whatever launches: who waits for a dead process gets an error, and says what happened"
    code = "import os, sys; from i2v_paper import scale, train; train.TASKS['train'] = (train.USUAL, lambda g: (scale.join('cpu'), os._exit(9) if os.environ['RANK'] == '1' else scale.wait())); train.main([])"
    codes, out = processes(2, code, seconds=100); assert codes == [GONE, 9] and 'another process of this job has ended' in out[0][1] and 'Traceback' not in out[0][1]


def test_command_of_a_cluster(tmp_path):
    "python -m i2v_paper.train as a launcher starts it"
    args = ['-p', 'dataset', 'bair', '-p', 'preset', 'smoke', '-p', 'stage', 'embedder', '-p', 'device', 'cpu']
    env = os.environ | dict(I2V_RUNS=str(tmp_path), OMP_NUM_THREADS='1', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port()))
    ps = [subprocess.Popen([sys.executable, '-m', 'i2v_paper.train', *args], env=env | dict(RANK=str(r), LOCAL_RANK=str(r)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for r in range(2)]
    out = [p.communicate(timeout=300) for p in ps]; assert [p.returncode for p in ps] == [0, 0], out
    run = tmp_path/'bair-smoke-s0'; assert (run/'embedder.safetensors').exists() and not (run/'lock').exists() and json.loads((run/'run.json').read_text())['parameters']['stage'] == 'embedder'
    assert 'papermill nbs/train.ipynb -p dataset bair -p preset smoke -p stage embedder' in out[0][0] and out[1][0] == ''


def test_a_mistake_in_the_command_is_said_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(os, '_exit', sys.exit)
    with pytest.raises(SystemExit) as e: train.main(['-p', 'preset', 'papr'])
    said = capsys.readouterr().err; assert e.value.code == 1 and "did you mean 'paper'" in said and 'Traceback' not in said


def test_augmentation_of_a_part_is_that_of_the_whole_batch():
    from i2v_paper.data import augmented
    from i2v_paper.scale import Part
    x = torch.randint(0, 256, (5, 2, 3, 20, 20), dtype=torch.uint8); kw = dict(augment=('flip', 'crop', 'jitter'), rng=3, jitter=(.3, .3, .3, .1)); whole = augmented(x, 16, **kw)
    for p in Part(0, 5, 5).split(2):
        for a, b in zip(augmented(x[p.cut], 16, part=p, **kw), whole): assert torch.equal(a, b[p.cut])


def test_half_precision_loss(monkeypatch):
    "In bfloat16 the first losses are those of full precision to a few digits, and weights stay float32"
    from contextlib import nullcontext
    from i2v_paper import video
    terms = {}
    for precision in ('fp32', 'bf16'):
        monkeypatch.setattr(video, 'mixed', lambda p, device: nullcontext() if p == 'fp32' else torch.autocast('cpu', torch.bfloat16))
        s = settings('bair', 'smoke', video_batch=2, critic_start=0., precision=precision); torch.manual_seed(0); t = video.VideoTrainer(s, 4)
        terms[precision] = t.step(0, torch.rand(2, s.frames + 1, 3, s.size, s.size, generator=torch.Generator().manual_seed(0))*2 - 1, step_generator(0, 'video', 0)); assert all(p.dtype == torch.float32 for p in t.model.parameters())
    for k, v in terms['fp32'].items(): assert abs(terms['bf16'][k] - v) <= .05*(1 + abs(v)), (k, v, terms['bf16'][k])
    assert terms['bf16']['l1'] != terms['fp32']['l1'] and terms['bf16']['gp'] == pytest.approx(terms['fp32']['gp'], rel=.2)
