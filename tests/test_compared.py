"Compared systems as a stranger runs them: one command trains, one scores, a kill costs nothing, a mistake is named."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from i2v_paper.compared.blocks import System, fit
from i2v_paper.compared.systems import SYSTEMS, build_system, context_of, load_system, written
from i2v_paper.core import PRESETS, Problem, open_run, settings
from i2v_paper.data import load_clips
from i2v_paper.paper import PUBLISHED, TABLES

ROOT = Path(__file__).resolve().parent.parent
PAPERMILL = Path(sys.executable).with_name('papermill')


def papermill(runs, notebook, *args):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    return subprocess.run([str(PAPERMILL), f'nbs/{notebook}.ipynb', *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


def test_register_agrees_with_the_published_tables():
    for r in SYSTEMS.values(): assert set(r.tables) <= set(TABLES), r.title
    stands = {(p.table, p.system) for p in PUBLISHED}
    for table, label in stands:
        assert all(table in r.tables for r in SYSTEMS.values() if r.label == label), (table, label)
    for r in SYSTEMS.values():                                   # and is in no table whose numbers are known and do not name it
        for t in r.tables: assert not TABLES[t].source or (t, r.label) in stands, (t, r.label)
    assert len({r.label for r in SYSTEMS.values()}) == len(SYSTEMS) and {'AL', 'SAVP', 'SRVP', 'IVRNN', 'MDGAN', 'DTVNet'} <= {s for _, s in stands}


@pytest.mark.parametrize('name', written())
def test_every_system_obeys_the_contract(name, tmp_path):
    for n in sorted({1, context_of(name, 'official')}):
        s = settings('bair', 'smoke', system=name, context=n)
        clips = load_clips('bair', 'train', s.frames + n - 1, s.size, n=16, report=None)
        where = tmp_path/str(n); begin = lambda run: open_run(run, s, {'seed': 0}, {'fingerprint': ''}, where=where)
        whole = fit(build_system(s, name, n), begin('whole'), s, clips)
        assert isinstance(whole, System) and not whole.training and whole.finished
        broken = build_system(s, name, n); steps = getattr(broken.h, 'steps', 0)
        if steps:
            real = broken.training_step
            def stop(clip, optimizers, step, *rest):
                if step == steps//2: raise KeyboardInterrupt
                return real(clip, optimizers, step, *rest)
            broken.training_step = stop
            with pytest.raises(KeyboardInterrupt): fit(broken, begin('again'), s, clips)
        again = fit(build_system(s, name, n), begin('again'), s, clips)
        assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
        context = clips.batch([0, 1])[:, :n]; out = whole.sample(context, 2*s.frames + 1, 3, seed=5)
        assert out.shape == (2, 3, 2*s.frames + 1, 3, s.size, s.size) and out.abs().max() <= 1
        assert torch.equal(out, load_system(begin('again')).sample(context, 2*s.frames + 1, 3, seed=5))
        assert torch.equal(out[:, 0], out[:, 1]) == SYSTEMS[name].deterministic == torch.equal(out, whole.sample(context, 2*s.frames + 1, 3, seed=6))


@pytest.mark.parametrize('name', written())
def test_every_system_has_sizes_for_every_preset(name):
    cls = type(build_system(settings('iper', 'smoke', system=name), name))
    assert not cls.SIZES or {'smoke', 'quick', 'small', 'paper'} <= set(cls.SIZES) <= set(PRESETS)
    assert len({frozenset(row) - {'epochs'} for row in cls.SIZES.values()}) <= 1, 'the rows have the same sizes'


def test_one_film_follows_the_other():
    "MDGAN makes T frames at once; a longer film goes on from the last, and a film that begins with x0 loses it"
    s = settings('landscape', 'smoke', system='mdgan'); x0 = load_clips('landscape', 'train', s.frames, s.size, n=16, report=None).batch([0, 1])[:, :1]
    for shift, new in ((1, s.frames), (0, s.frames - 1)):
        net = build_system(s, 'mdgan', shift=shift).eval(); out = net.sample(x0, 2*new, 1)[:, 0]
        with torch.no_grad(): assert torch.equal(out[:, :new], net.films(x0[:, 0])[:, 1 - shift:]) and torch.equal(out[:, new:], net.films(out[:, new - 1])[:, 1 - shift:])


def test_a_lost_reader_leaves_one_future():
    "DTVNet's vector is normalised over a batch in training; over a batch of one, as released, it is zero, and all futures are one"
    s = settings('landscape', 'smoke', system='dtvnet'); clips = load_clips('landscape', 'train', s.frames, s.size, n=16, report=None); X = clips.batch([0, 1])
    net = build_system(s, 'dtvnet').eval(); net.finish(clips, None); f = net.flows(X)
    assert net.bank.std(0).min() > 0 and torch.allclose(net.vector(f)[:1], net.vector(f[:1]), atol=1e-4)                # a vector does not depend on its neighbours
    for prior, one in (('bank', False), ('normal', False), ('released', True)):
        net.h.prior = prior; out = net.sample(X[:, :1], s.frames, 3); assert torch.equal(out[:, 0], out[:, 1]) == one, prior


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp('runs')
    p = papermill(runs, 'train', '-p', 'system', 'al', '-p', 'dataset', 'landscape', '-p', 'preset', 'smoke')
    assert p.returncode == 0, p.stderr
    return runs


def test_one_command_trains_a_system(trained):
    run = trained/'landscape-smoke-s0-al'; record, m = (json.loads((run/f).read_text()) for f in ('run.json', 'metrics.json'))
    assert record['settings']['system'] == 'al' and record['steps']['system'] == 10 and m['n'] == 16 and m['spread'] > 0 and {'best', 'still', 'motion_ratio', 'spread_ratio'} <= set(m)
    text = (run/'train.ipynb').read_text(); assert 'a re-implementation' in text and 'drawn stand-in' in text and 'future 5' in text


def test_one_command_scores_it_and_the_tables_take_the_score(trained):
    p = papermill(trained, 'evaluate', '-p', 'system', 'al', '-p', 'dataset', 'landscape', '-p', 'preset', 'smoke', '-p', 'metrics', 'DTFVD-drawn,DTI3D-drawn MSE x1000', '-p', 'n_clips', '16', '-p', 'n_futures', '2')
    assert p.returncode == 0, p.stderr
    scores = json.loads((trained/'landscape-smoke-s0-al'/'metrics.json').read_text())['scores']
    assert {s['system'] for s in scores} == {'AL', 'repeat x0', 'true futures'} and '-p system al' in scores[0]['command']
    from i2v_paper.paper import check_score, part
    rows = part('landscape', [check_score(s) for s in scores], True).rows
    assert any(r[0].text.startswith('AL') and '[' in r[1].text for r in rows)


@pytest.mark.parametrize('args, words', [
    (('-p', 'system', 'srpv'), "did you mean 'srvp'"), (('-p', 'system', 'al', '-p', 'ablation', 'cinn'), 'not of Animating Landscape'),
    (('-p', 'context', '3'), 'context = 3 is not a choice')])
def test_mistakes_are_named(tmp_path, args, words):
    p = papermill(tmp_path, 'train', *args, '-p', 'preset', 'smoke')
    assert p.returncode != 0 and words in p.stderr and 'Traceback' not in p.stderr


def test_references_borrow_the_first_stages(tmp_path):
    from i2v_paper.synthesis import borrow, train_run
    s = settings('iper', 'smoke'); clips = load_clips('iper', 'train', s.frames, s.size, n=s.n_train, report=None)
    start = lambda name, s: open_run(name, s, {'seed': 0}, {'fingerprint': clips.fingerprint}, where=tmp_path)
    ours = start('ours', s); train_run(ours, s, clips)
    t = settings('iper', 'smoke', system='matching'); run = start('matching', t)
    assert 'video.safetensors' in borrow(run, t, ours)
    made = fit(build_system(t, 'matching'), run, t, clips)
    assert run.file('video').read_bytes() == ours.file('video').read_bytes() and 'video' not in run.record.get('steps', {})
    x0 = clips.batch([0, 1])[:, 0]; z = torch.randn(2, s.z_dim)
    with torch.no_grad(): assert torch.allclose(made.prior.inverse(made.prior(z, made.embedder(x0))[0], made.embedder(x0)), z, atol=1e-2)


def test_a_trained_system_of_ours_is_not_taken_for_a_compared_one(tmp_path):
    s = settings('iper', 'smoke')
    with pytest.raises(Problem, match='a run of ours'): load_system(open_run('r', s, {'seed': 0}, {'fingerprint': ''}, where=tmp_path))
