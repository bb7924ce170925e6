"Metrics against peers, under distortions, and through the commands that make them."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from i2v_paper.data import load_clips
from i2v_paper.dtfvd import accuracy, classify, load_backbone
from i2v_paper.features import PerceptualDistance, blurred, feature_net
from i2v_paper.metrics import backbone, clip_distance, frechet, map_diversity, pair_cosine, pair_mse, to_float
from i2v_paper.standins import TEST_SEED, find_standin

ROOT = Path(__file__).resolve().parent.parent
PAPERMILL = Path(sys.executable).with_name('papermill')


def blur(X, sigma): return blurred(X.flatten(0, 1), sigma).unflatten(0, X.shape[:2])
def noise(X, level): return (X + level*torch.randn(X.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
def shuffle(X, part):
    "The first frames stay, the rest is shuffled"
    T = X.shape[1]; k = round(T*(1 - part)); g = torch.Generator().manual_seed(1)
    return X[:, torch.cat([torch.arange(k), k + torch.randperm(T - k, generator=g)])]


@pytest.fixture(scope='module')
def clips():
    c = load_clips('dtdb', 'test', 15, 64, n=192, report=None)
    return to_float(torch.from_numpy(c.video[:]).permute(0, 1, 4, 2, 3))


@pytest.mark.parametrize('n, m, d', [(60, 40, 16), (30, 50, 200)])
def test_frechet_agrees_with_torchmetrics(n, m, d):
    fid = pytest.importorskip('torchmetrics.image.fid', reason='torchmetrics is a dev requirement: pip install -e ".[dev]"')
    class First(torch.nn.Module):
        num_features = d
        def forward(self, x): return x.flatten(1)[:, :d]
    peer = fid.FrechetInceptionDistance(feature=First(), input_img_size=(3, 4, 8, 8), normalize=False, antialias=False).set_dtype(torch.float64)
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(n, 3, 4, 8, 8, generator=g, dtype=torch.float64), torch.rand(m, 3, 4, 8, 8, generator=g, dtype=torch.float64)**2
    peer.update(a, real=True); peer.update(b, real=False)
    assert frechet(First()(a), First()(b)) == pytest.approx(peer.compute().item(), rel=1e-6)


def test_frechet_of_gaussians_approaches_the_closed_form():
    rng = np.random.default_rng(0); mean, sd = np.array([.5, -1, 2, 0]), np.array([1, 2, .5, 3])
    d = frechet(rng.standard_normal((200_000, 4)), rng.standard_normal((200_000, 4))*sd + mean)
    assert d == pytest.approx((mean**2).sum() + ((sd - 1)**2).sum(), rel=.01)


def test_diversity_agrees_with_loops_in_float64():
    f = torch.randn(2, 5, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i in range(2):
        pairs = [(f[i, a].double(), f[i, b].double()) for a in range(5) for b in range(5) if a != b]
        mse = sum(float(((u - v)**2).sum()/21) for u, v in pairs)/20
        cos = sum(1 - float((u[t] @ v[t])/(u[t].norm()*v[t].norm())) for u, v in pairs for t in range(3))/60
        assert pair_mse(f)[i].item() == pytest.approx(mse, rel=1e-12) and pair_cosine(f)[i].item() == pytest.approx(cos, rel=1e-10)


@pytest.mark.parametrize('spoil, levels', [(blur, (.5, 1., 2.)), (noise, (.1, .3, .8)), (shuffle, (.3, .6, 1.))])
def test_dtfvd_grows_with_distortion(clips, spoil, levels):
    "The same clips, spoilt and not: at this n the distance between different clips (about 7) would hide a weak blur"
    net = backbone('dtfvd-drawn-16'); real = net.features(clips[:96])
    d = [frechet(real, net.features(spoil(clips[:96], l))) for l in levels]
    assert d[0] > 1e-6 and all(a < b for a, b in zip(d, d[1:])), d


@pytest.mark.parametrize('spoil, levels', [(blur, (.5, 1., 2.)), (noise, (.1, .3, .8))])
def test_fid_grows_with_distortion_and_does_not_mind_order(clips, spoil, levels):
    net = backbone('efflite0'); f = lambda X: net.features(X[:, ::5]).flatten(0, 1); real = f(clips[:48])
    d = [frechet(real, f(spoil(clips[:48], l))) for l in levels]
    assert d[0] > 1e-6 and all(a < b for a, b in zip(d, d[1:])), d
    order = torch.tensor([10, 0, 15, 5])
    assert frechet(net.features(clips[:24][:, [0, 5, 10, 15]]).flatten(0, 1), net.features(clips[:24][:, order]).flatten(0, 1)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize('spoil, levels', [(blur, (.5, 1., 2.)), (noise, (.05, .2, .6)), (shuffle, (.3, 1.))])
def test_lpips_grows_with_distortion(clips, spoil, levels):
    d = PerceptualDistance(feature_net('stlpips-alex')); X = clips[:6]
    values = [0.] + [clip_distance(d, X, spoil(X, l)).mean().item() for l in levels]
    assert clip_distance(d, X, X).abs().max() == 0 and all(a < b for a, b in zip(values, values[1:])), values


def test_diversity_shrinks_as_futures_agree():
    v = to_float(torch.stack([torch.from_numpy(find_standin('landscape').futures(TEST_SEED + i, 4, 9, 32)) for i in range(4)]).permute(0, 1, 2, 5, 3, 4))
    net = feature_net('efflite0'); mean = v.mean(1, keepdim=True)
    for which in (0, 1):
        d = [map_diversity(net, mean + w*(v - mean))[which].mean().item() for w in (1., .5, .1)]
        assert d[0] > d[1] > d[2] > 0


def test_a_perfect_model_scores_at_the_floor():
    "True futures of the start frames of real clips are as far from them as other real clips are"
    n, s = 128, find_standin('landscape'); net = backbone('dtfvd-drawn-16')
    real = load_clips('landscape', 'test', 15, 64, n=2*n, report=None).batch(range(2*n))
    true = torch.from_numpy(np.stack([s.futures(TEST_SEED + i, 1, 16, 64)[0] for i in range(n)])).permute(0, 1, 4, 2, 3)
    f = net.features(real[:n]); floor, perfect = frechet(f, net.features(real[n:])), frechet(f, net.features(true))
    frozen = frechet(f, net.features(real[:n, :1].expand(-1, 16, -1, -1, -1)))
    assert perfect < 1.2*floor and frozen > perfect, (floor, perfect, frozen)


def test_shipped_backbone_is_what_its_card_says():
    net = load_backbone(); test = load_clips('dtdb', 'test', net.frames - 1, net.card['size'], n=360, report=None)
    assert net.card['test_accuracy'] >= .80 and net.card['n_classes'] == 18
    assert abs(accuracy(*classify(net, test)) - net.card['test_accuracy']) < .06      # 3 standard errors at n = 360


def papermill(runs, notebook, *args, seconds=400):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    r = subprocess.run([str(PAPERMILL), f'nbs/{notebook}.ipynb', *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    return r.returncode, r.stderr


def test_evaluate_scores_a_run_and_names_a_missing_one(tmp_path):
    status, err = papermill(tmp_path, 'evaluate', '-p', 'preset', 'smoke')
    assert status == 1 and 'train it first: papermill nbs/train.ipynb -p dataset iper -p preset smoke' in err and 'Traceback' not in err
    status, err = papermill(tmp_path, 'train', '-p', 'preset', 'smoke'); assert status == 0, err
    args = ('-p', 'preset', 'smoke', '-p', 'n_clips', '12', '-p', 'n_futures', '3')
    status, err = papermill(tmp_path, 'evaluate', *args); assert status == 0, err
    scores = json.loads((tmp_path/'iper-smoke-s0'/'metrics.json').read_text())['scores']
    names = {r['metric'] for r in scores}
    assert {'DTFVD-drawn', 'FID-EffLite0', 'ST-LPIPS', 'EffLite0 MSE', 'EffLite0 cosine', 'DTI3D-drawn MSE x1000'} <= names
    for r in scores:
        assert r['low'] <= r['value'] <= r['high'] and len(r['sha256']) == 8 and r['n'] == 12 and r['data'] == 'drawn stand-in', r
        assert r['system'] != 'repeat x0' or 'MSE' not in r['metric'] or r['value'] == 0
    assert (tmp_path/'iper-smoke-s0'/'evaluate.ipynb').exists() and (tmp_path/'iper-smoke-s0'/'train.ipynb').exists()
    for mistake, says in ((('-p', 'metrics', 'FVDD'), "did you mean 'FVD'"), (('-p', 'metrics', 'FVD'), 'i3d_torchscript.pt'), (('-p', 'n_futures', '1', '-p', 'metrics', 'EffLite0 MSE'), 'n_futures')):
        status, err = papermill(tmp_path, 'evaluate', *args[:3], '-p', 'n_clips', '4', *mistake)
        assert status == 1 and says in err and 'Traceback' not in err, err


def test_dtfvd_trains_and_continues(tmp_path):
    for _ in range(2):
        status, err = papermill(tmp_path, 'dtfvd', '-p', 'preset', 'smoke'); assert status == 0, err
    run = tmp_path/'dtfvd16-smoke-s0'; m = json.loads((run/'metrics.json').read_text())
    assert len(m['confusion']) == 18 and sum(map(sum, m['confusion'])) == m['n_test'] == 36
    assert load_backbone(run/f'{run.name}.safetensors').card['sha256'] == m['sha256']
    status, err = papermill(tmp_path, 'dtfvd', '-p', 'frames', '20')
    assert status == 1 and 'frames = 20 is not a choice' in err


@pytest.mark.skipif(not Path(os.environ.get('I2V_TEST_DATA', '/nowhere'), 'sky_timelapse').is_dir(), reason='needs real clips: I2V_TEST_DATA names no folder with sky_timelapse')
def test_real_clips_are_scored_with_a_floor_from_other_videos(tmp_path, monkeypatch):
    from i2v_paper.core import open_run, settings
    from i2v_paper.protocol import gather, measure, network
    from i2v_paper.synthesis import train_run
    s, sky = settings('landscape', 'smoke'), Path(os.environ['I2V_TEST_DATA'])/'sky_timelapse'
    train = load_clips('landscape', 'train', s.frames, s.size, n=16, report=None)
    system = train_run(open_run('r', s, {'seed': 0}, {'fingerprint': ''}, where=tmp_path), s, train)
    m = gather(system, s, sky, n_clips=6, n_futures=2); off = gather(system, s, sky, n_clips=6, n_futures=2, offset=True)
    assert m.true is None and not m.drawn and m.real.shape == m.futures[:, 0].shape == (6, 2*s.frames, 3, s.size, s.size)
    assert torch.equal(off.real[:, 1:], m.real[:, :-1]) and torch.equal(off.futures, m.futures)         # the authors' offset: one frame earlier
    rows = {r['system']: r for r in measure('DTFVD-drawn', m, network('DTFVD-drawn'))}
    assert set(rows) == {'ours', 'repeat x0'} and all(r['floor'] > 0 and r['n'] == 6 for r in rows.values())
