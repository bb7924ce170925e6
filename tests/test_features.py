"LPIPS against its definition in float64, channel by channel; what is said when one of its two files is missing or another"
import hashlib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

from i2v_paper.core import Problem
from i2v_paper.features import VGG16, WEIGHTS, FeatureNet, PerceptualDistance, lpips

PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)       # of VGG-16's convolutions in torchvision's numbering


def trust(monkeypatch, name, path):
    "Let the row `name` of WEIGHTS mean this file, in this test only"
    monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS[name], sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    return path


def draw(rng, *shape, scale=1.): return torch.tensor(rng.standard_normal(shape)*scale, dtype=torch.float32)


@pytest.fixture
def trunk(tmp_path, monkeypatch):
    "A drawn VGG-16 as torchvision saves one, its dense layers cut short"
    rng, state, c = np.random.default_rng(0), {}, 3
    for i, w in zip(PLACES, [w for widths in VGG16 for w in widths]):
        state |= {f'features.{i}.weight': draw(rng, w, c, 3, 3, scale=(2/(9*c))**.5), f'features.{i}.bias': draw(rng, w, scale=.1)}
        c = w
    for i in (0, 3, 6): state |= {f'classifier.{i}.weight': draw(rng, 2, 2), f'classifier.{i}.bias': draw(rng, 2)}
    torch.save(state, tmp_path/'trunk.pth')
    return trust(monkeypatch, 'vgg16', tmp_path/'trunk.pth')


@pytest.fixture
def drawn_heads(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    torch.save({f'lin{i}.model.1.weight': draw(rng, 1, w[-1], 1, 1).abs() for i, w in enumerate(VGG16)}, tmp_path/'heads.pth')
    return trust(monkeypatch, 'lpips-vgg', tmp_path/'heads.pth')


@pytest.fixture
def published_heads():
    "The file in the wheel, found without importing the wheel's code, and believed only by its hash"
    try: wheel = distribution('lpips')
    except PackageNotFoundError: pytest.skip('the wheel lpips==0.1.4 is not installed: pip install --no-deps lpips==0.1.4')
    return Path(wheel.locate_file(WEIGHTS['lpips-vgg'].file))


def pictures(n=2, size=32):
    rng = np.random.default_rng(2)
    a = rng.uniform(-1, 1, (n, 3, size, size))
    return a, (a + .3*rng.standard_normal(a.shape)).clip(-1, 1)


def maps(state, x):
    "relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 of one frame (3,H,W), written out"
    mean, std = np.array([.485, .456, .406]), np.array([.229, .224, .225])
    x = ((x + 1)/2 - mean[:, None, None])/std[:, None, None]
    out, places = [], iter(PLACES)
    for k, widths in enumerate(VGG16):
        if k: x = np.maximum.reduce([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
        for _ in widths:
            i = next(places)
            w, bias, (h, v) = state[f'features.{i}.weight'].double().numpy(), state[f'features.{i}.bias'].double().numpy(), x.shape[1:]
            p = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            x = bias[:, None, None] + sum(np.tensordot(w[:, :, dy, dx], p[:, dy:dy + h, dx:dx + v], 1) for dy in range(3) for dx in range(3))
            x = np.maximum(x, 0)
        out.append(x)
    return out


def by_hand(state, heads, a, b):
    "LPIPS of two frames: over slices, over channels, the weighted squared difference of unit vectors, averaged over places"
    total = 0.
    for i, (u, v) in enumerate(zip(maps(state, a), maps(state, b))):
        length_u, length_v = (np.sqrt(sum(m[c]**2 for c in range(len(m)))) + 1e-10 for m in (u, v))
        for c in range(len(u)):
            d = (u[c]/length_u - v[c]/length_v)**2
            total += float(heads[f'lin{i}.model.1.weight'][0, c, 0, 0])*d.sum()/prod(d.shape)
    return total


@pytest.mark.parametrize('source', ['drawn_heads', 'published_heads'])
def test_lpips_is_its_definition(source, trunk, request):
    path = request.getfixturevalue(source)
    state, heads = (torch.load(p, map_location='cpu', weights_only=True) for p in (trunk, path))
    a, b = pictures()
    want = [by_hand(state, heads, u, v) for u, v in zip(a, b)]
    distance = lpips(trunk, path)
    got = distance(*(torch.tensor(v, dtype=torch.float32) for v in (a, b)))
    assert min(want) > .01 and abs(want[0] - want[1]) > 1e-4             # the case says something
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5)


def test_published_heads_are_found_and_are_weights(published_heads, trunk):
    assert hashlib.md5(published_heads.read_bytes()).hexdigest() == 'd507d7349b931f0638a25a48a722f98a'    # as the authors' code expects it
    net = lpips(trunk).net                                                                                 # found in the wheel
    assert [tuple(h.shape) for h in net.heads] == [(1, w[-1], 1, 1) for w in VGG16]
    assert all((h > 0).all() for h in net.heads)


def test_lpips_is_frozen_and_has_no_dropout(trunk, drawn_heads):
    distance, (a, b) = lpips(trunk, drawn_heads), (torch.tensor(v, dtype=torch.float32) for v in pictures())
    assert isinstance(distance, PerceptualDistance) and isinstance(distance.net, FeatureNet) and not distance.training
    assert not any(p.requires_grad for p in distance.parameters())
    first = distance(a, b)
    assert torch.equal(first, distance.train()(a, b)) and torch.equal(distance(a, a), torch.zeros(2))
    a.requires_grad_(); distance(a, b).sum().backward()
    assert torch.isfinite(a.grad).all() and a.grad.abs().sum() > 0
    assert distance.net.name == 'lpips-vgg' and distance.net.n_params == 14_714_688 + 64 + 128 + 256 + 512 + 512
    for part in ('BSD-3-Clause (trunk)', 'BSD-2-Clause (heads)'): assert part in distance.net.licence


def said(call):
    with pytest.raises(Problem) as e: call()
    return str(e.value)


def test_missing_files_are_named(tmp_path, trunk, drawn_heads, monkeypatch):
    gone = said(lambda: lpips(trunk, tmp_path/'none.pth'))
    for part in ('vgg.pth', '7 kB', WEIGHTS['lpips-vgg'].sha256[:8], 'none.pth', 'pip install --no-deps lpips==0.1.4', 'lpips(heads=...)'): assert part in gone
    gone = said(lambda: lpips(tmp_path/'none.pth', drawn_heads))
    for part in ('vgg16-397923af.pth', '528 MB', WEIGHTS['vgg16'].sha256[:8], 'none.pth', "fetch('vgg16')", 'https://'): assert part in gone
    monkeypatch.setitem(WEIGHTS, 'lpips-vgg', replace(WEIGHTS['lpips-vgg'], package='no-such-wheel-of-heads==0.1.4'))
    assert 'its wheel is not installed' in said(lambda: lpips(trunk))


def test_other_files_are_refused(tmp_path, trunk, drawn_heads):
    spoiled = tmp_path/'spoiled.pth'
    spoiled.write_bytes(drawn_heads.read_bytes() + b'\0')
    assert 'not the file we mean' in said(lambda: lpips(trunk, spoiled))
    assert 'not the file we mean' in said(lambda: lpips(drawn_heads, drawn_heads))
