"""Each network against the authors' at several sizes. `parity.json` was written by running their networks (MIT, commit 30b1902; the image encoder on
torchvision's ResNets) with weights that `drawn` draws from a seed, so that it holds names, shapes and sampled answers, and no weights."""
import json
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from i2v_paper.official import load_official, to_official

CASES = json.loads(Path(__file__).with_name('parity.json').read_text())
TOL = 1e-4


def drawn(shapes, seed):
    "A state dict under the authors' names: random, of a size that keeps signals alive; spectral norms a few power steps from where they began"
    state = {}
    for key, shape in shapes.items():
        g = torch.Generator().manual_seed(seed + zlib.crc32(key.encode())); v = torch.randn(shape, generator=g); last = key.split('.')[-1]
        if last == 'forward_shuffle_idx': v = torch.randperm(shape[0], generator=g)
        elif last == 'backward_shuffle_idx': v = state[key.replace('backward', 'forward')].argsort()
        elif last == 'initialized': v = torch.ones(shape, dtype=torch.uint8)
        elif last == 'num_batches_tracked': v = torch.tensor(7)
        elif last in ('running_var', 'scale'): v = 1 + .2*v.abs()
        elif len(shape) < 2 and last == 'weight': v = 1 + .2*v
        elif last in ('loc', 'running_mean') or len(shape) < 2 and last == 'bias': v = .1*v
        elif len(shape) > 1: v = v/v[0].numel()**.5*(.3 if '.coupling.' in key else 1)
        state[key] = v
    for key in shapes:
        if not key.endswith('weight_u'): continue
        W, u = state[key.replace('_u', '_orig')].flatten(1), F.normalize(state[key], dim=0)
        for _ in range(3): v = F.normalize(W.T @ u, dim=0); u = F.normalize(W @ v, dim=0)
        state[key], state[key.replace('_u', '_v')] = u, v
    return state


def given(shape, seed): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
def clip(shape, seed): return given(shape, seed).tanh()
def sampled(x, n=24):
    "Evenly spread entries of a tensor, and its norm"
    flat = x.detach().flatten().double(); return [round(v, 6) for v in [*flat[torch.linspace(0, len(flat) - 1, n).long()].tolist(), (flat.norm()/len(flat)**.5).item()]]


def answers(kind, case, net, theirs=False):
    "What a network says to the case's inputs, by name; `theirs` tells how the authors' networks are called"
    s, n = case['seed'], case['inputs']; out = {}
    with torch.no_grad():
        if kind == 'encoder': out['mu'], out['logvar'] = net(clip(n['X'], s))
        if kind == 'decoder': out['X'] = net(clip(n['x0'], s), given(n['z'], s + 1))
        if kind == 'disc_s': out['logits'] = net(clip(n['frames'], s))
        if kind == 'disc_t': logit, maps = net(clip(n['X'], s)); out |= {'logit': logit.flatten()} | {f'map {i}': m for i, m in enumerate(maps)}
        if kind == 'embedder': out['mu'], out['logvar'] = net(clip(n['x0'], s))
        if kind == 'cinn':
            z, c = given(n['z'], s), given(n['c'], s + 1); args = (torch.cat([c, F.one_hot(torch.arange(len(z))[:, None] % 10 + torch.zeros(1, 3).long(), 10).flatten(1).float()], 1),) if theirs and n['eta'] else (c,)
            if not theirs and n['eta']: args = (c, F.one_hot(torch.arange(len(z))[:, None] % 10 + torch.zeros(1, 3).long(), 10).flatten(1).float())
            out['nu'], out['logdet'] = net(z, *args); out['inverse'] = net(out['nu'], *args, reverse=True) if theirs else net.inverse(out['nu'], *args)
    return out


@pytest.mark.parametrize('name', CASES)
def test_answers_are_the_authors(name):
    case = CASES[name]; kind = case['kind']; state = drawn(case['shapes'], case['seed']); options = {k: tuple(v) if isinstance(v, list) else v for k, v in case['options'].items()}; net = load_official(kind, dict(state), **options)
    ours = answers(kind, case, net); rounding = dict.fromkeys(ours, 0.)
    if kind == 'embedder':      # instance norm over 2 x 2 positions divides by deviations near zero and so magnifies rounding, which differs between processors: measured, against twice the digits
        exact = dict(zip(('mu', 'logvar'), load_official(kind, dict(state), **options).double()(clip(case['inputs']['x0'], case['seed']).double())))
        rounding = {what: (torch.tensor(sampled(x)) - torch.tensor(sampled(exact[what]))).abs().max().item() for what, x in ours.items()}
    for what, x in ours.items():
        want = torch.tensor(case['answers'][what]); size = max(1, want.abs().max().item())
        assert (torch.tensor(sampled(x)) - want).abs().max() < max(TOL*size, 4*rounding[what]) < 1e-2*size, what
        assert want[-1] > 1e-2 and want.isfinite().all(), f'{what} says too little'
    if 'u' in case:                                            # one forward in training: the power iteration's vectors, and what is answered after it
        net.train(); answers(kind, case, net); net.eval()
        for m in net.modules():
            if hasattr(m, 'parametrizations'): p = m.parametrizations.weight; p[0]._u.copy_(F.normalize(p.original.flatten(1) @ p[0]._v, dim=0))      # the classic half step, see 19_official
        now = to_official(kind, net.state_dict())
        for key, want in case['u'].items(): assert (torch.tensor(sampled(now[key])) - torch.tensor(want)).abs().max() < TOL, key
        moved = next(iter(case['u'])); assert (torch.tensor(sampled(state[moved])) - torch.tensor(case['u'][moved])).abs().max() > 1e-3
    if 'first batch' in case:                                  # ActNorm sets itself; the power iteration, which is half a step apart, is held
        fresh = {k: torch.zeros_like(v) if k.endswith('.initialized') else torch.ones_like(v) if k.endswith('.scale') else torch.zeros_like(v) if k.endswith('.loc') else v for k, v in state.items()}
        net = load_official(kind, fresh, **{k: tuple(v) if isinstance(v, list) else v for k, v in case['options'].items()}).train()
        for m in net.modules():
            if hasattr(m, 'parametrizations'): m.parametrizations.eval()
        answers(kind, case, net); now = to_official(kind, net.state_dict())
        for key, want in case['first batch'].items(): assert (torch.tensor(sampled(now[key])) - torch.tensor(want)).abs().max() < TOL*max(1, max(map(abs, want))), key


def test_all_kinds_at_several_sizes():
    kinds = [c['kind'] for c in CASES.values()]; assert all(kinds.count(k) >= 2 for k in ('encoder', 'decoder', 'disc_s', 'disc_t', 'cinn', 'embedder'))
