"Figures from runs that are there, commands for those that are not, and what the command writes."
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2v_paper.core import Log, Problem, Run, open_run, run_name, settings, write_json
from i2v_paper.data import load_clips
from i2v_paper.figures import FIGURES, LIMIT, WINDS, Ask, arrow, figure, failures, over_groups, pages, save_film, trained, write_figure, write_figures, write_gallery
from i2v_paper.synthesis import train_run
from i2v_paper.textures import DYNAMICS

ROOT = Path(__file__).resolve().parent.parent
VIDEOS = 'Landscape_samples Landscape_comparison Landscape_diversity Landscape_longer_duration iPER_samples iPER_comparison Clouds Fire vegetation Waterfall BAIR_comparison BAIR_diversity ' \
         'Endpoint_BAIR Direction_Clouds1 Direction_Clouds2 Transfer_Landscape Failure_cases'.split()
RUNS = dict.fromkeys(('landscape', 'iper'), ('',)) | {'bair': ('', 'endpoint'), 'dtdb-clouds': ('', 'direction')}
DRAWABLE = [n for n, f in FIGURES.items() if n in ('fig1_decoder', 'failure_cases') or f.dataset in RUNS]


def train(where, dataset, control=''):
    s = settings(dataset, 'smoke', control=control, n_train=40, embed_steps=3, video_steps=5, critic_start=1., flow_steps=5)
    clips = load_clips(dataset, 'train', s.frames, s.size, n=40, report=None)
    run = open_run(run_name(dataset, 'smoke', 0, variant=control), s, dict(dataset=dataset, preset='smoke', seed=0, control=control), dict(drawn=True, fingerprint=clips.fingerprint), where=where)
    train_run(run, s, clips)


@pytest.fixture(scope='module')
def ask(tmp_path_factory):
    "Smoke runs of seconds, in a folder of their own"
    where = tmp_path_factory.mktemp('runs')
    for dataset, controls in RUNS.items():
        for control in controls: train(where, dataset, control)
    return Ask(preset='smoke', n_starts=2, n_futures=2, n_clips=64, cycles=2, runs=where)


def test_all_videos_of_the_supplement_have_a_row():
    assert [f.title for f in FIGURES.values() if f.section.startswith('A')] == VIDEOS and len(VIDEOS) == 17
    assert {f.section for f in FIGURES.values() if f.section.startswith('Fig')} == {'Fig. 1', 'Fig. 2', 'Fig. 3', *(f'Fig. {k} of the paper' for k in (3, 4, 6, 7))}


@pytest.mark.parametrize('name', DRAWABLE)
def test_figure_is_written_with_its_source(ask, tmp_path, name):
    plate = figure(name, ask); files = write_figure(name, plate, ask, tmp_path); told = json.loads((tmp_path/'sources.json').read_text())
    assert [f.name for f in files] == ([f'{name}.webp'] if plate.moving else []) + [f'{name}.png'] and all(f.stat().st_size < LIMIT for f in files)
    assert plate.moving == FIGURES[name].section.startswith('A')
    for f in files:
        source = told[f.name]
        assert source['caption'] == plate.caption and source['command'].startswith(f'papermill nbs/figures.ipynb -p which {name} -p preset smoke') and '-p n_starts 2' in source['command']
        assert source['runs'] == [r.path.name for r in plate.runs] and (not plate.runs or source['fingerprint'] == plate.runs[0].record['data']['fingerprint'])
    if plate.runs: assert 'drawn stand-in' in plate.head and 'Drawn stand-in' in plate.caption and all(r.path.name in plate.caption and r.path.name in plate.head for r in plate.runs)
    if plate.moving:
        film = Image.open(files[0]); T = max(len(c) for row in plate.rows.values() for c in row if c is not None); assert film.n_frames == 2*T == (98 if 'longer' in name else 18)
        film.seek(1); film.load(); assert film.info['duration'] == 125


@pytest.mark.parametrize('name', [n for n in FIGURES if n != 'fig1_decoder'])
def test_a_missing_run_is_named_with_its_command(tmp_path, name):
    ask = Ask(preset='quick', seed=3, runs=tmp_path)
    with pytest.raises(Problem) as e: figure(name, ask)
    text = str(e.value); assert len(text.splitlines()) <= 3
    command = re.search(r'papermill nbs/(\w+)\.ipynb((?: -p \S+ \S+)*)', text); given = dict(re.findall(r'-p (\S+) (\S+)', command[2]))
    known = next(''.join(c['source']) for c in json.loads((ROOT/'nbs'/f'{command[1]}.ipynb').read_text())['cells'] if 'parameters' in c['metadata'].get('tags', []))
    assert given['seed'] == '3' and all(re.search(rf'^{k}: ', known, re.M) for k in given)
    if name not in ('fig2_confusion', 'fig3_curves', 'failure_cases'): assert given['dataset'] == FIGURES[name].dataset
    assert given.get('control') == {'endpoint_bair': 'endpoint', 'paper_fig6_endpoint': 'endpoint', 'direction_clouds1': 'direction', 'direction_clouds2': 'direction', 'paper_fig7_direction': 'direction'}.get(name)


def test_another_preset_is_named_and_not_used(ask):
    with pytest.raises(Problem, match='-p preset smoke'): figure('iper_samples', replace(ask, preset='paper'))
    with pytest.raises(Problem) as e: figure('fire', replace(ask, preset='paper'))
    assert 'draw from what is there' not in str(e.value)


def test_unfinished_runs_are_missing(ask, tmp_path):
    (tmp_path/'iper-smoke-s0').mkdir(); (tmp_path/'iper-smoke-s0'/'run.json').write_text('{}')
    with pytest.raises(Problem, match='no finished run iper-smoke-s0'): figure('iper_samples', replace(ask, runs=tmp_path))


def test_several_go_on_and_one_alone_stops(ask, tmp_path):
    made, missing = write_figures(['fire', 'iper_samples', 'waterfall'], ask, tmp_path)
    assert list(made) == ['iper_samples'] and list(missing) == ['fire', 'waterfall'] and '-p dataset dtdb-fire' in missing['fire']
    page = write_gallery(tmp_path).read_text(); assert page.count('\n## ') == 1 and made['iper_samples'][0].name in page
    with pytest.raises(Problem): write_figures(['fire'], ask, tmp_path)


def test_samples_begin_with_the_start_frame_and_depend_on_the_seed(ask):
    a, b, c = figure('bair_diversity', ask), figure('bair_diversity', ask), figure('bair_diversity', replace(ask, n_futures=3))
    for row in a.rows.values():
        assert all(torch.equal(x[0], row[0][0]) for x in row) and not torch.equal(row[1], row[2])
    assert all(torch.equal(x, y) for k in a.rows for x, y in zip(a.rows[k], b.rows[k])) and len(c.heads) == 4


def test_the_counter_and_the_rate_stand_in_their_corners(ask):
    plate = figure('clouds', ask); a, b = np.asarray(pages(plate, 8, 2)[3]), np.asarray(pages(plate, 8, 2)[12]); c = np.asarray(pages(plate, 25, 2)[3]); H, W = a.shape[:2]
    changed = np.argwhere((a != b).any(-1)); assert len(changed) and (changed[:, 0] > H - 20).all() and (changed[:, 1] < 90).all()
    changed = np.argwhere((a != c).any(-1)); assert len(changed) and (changed[:, 0] > H - 20).all() and (changed[:, 1] > W - 90).all()


def test_directions_stand_above_what_was_told(ask):
    plate = figure('direction_clouds1', ask); arrows, *rows = plate.rows.values()
    for k, w in enumerate(WINDS): assert np.array_equal(arrows[k][0], arrow(w))
    assert len(rows) == 2 and all(torch.equal(r[0][0], r[2][0]) and not torch.equal(r[0][1:], r[2][1:]) for r in rows)


def test_failures_are_the_worst_of_the_hard_and_are_counted(ask):
    plate = failures(FIGURES['failure_cases'], ask); groups = plate.numbers['groups']
    for dataset, factor in (('iper', 'complex_pose'), ('landscape', 'fast')):
        system, clips, _ = trained(ask, dataset, n=64); shown = [int(l.split()[1]) for l in plate.rows if l.startswith(dataset)]; hard = np.asarray(clips.factors[factor], bool)
        assert len(shown) == 2 and hard[shown].all() and groups[dataset]['best']['hard']['n'] == hard.sum() and groups[dataset]['best']['rest']['n'] == (~hard).sum()
        error = [(plate.rows[f'{dataset} {i}'][2][1:] - clips.batch([i])[0, 1:]).square().mean().item() for i in shown]; assert error == sorted(error, reverse=True)
        again = [(plate.rows[f'{dataset} {i}'][3][1:] - clips.batch([i])[0, 1:]).square().mean().item() for i in shown]; assert all(e <= a + 1e-6 for e, a in zip(error, again))
        mean = np.mean([(system.reconstruct(clips.batch([i])) - clips.batch([i])[:, 1:]).square().mean().item() for i in np.flatnonzero(hard)])
        r = groups[dataset]['reconstruction']['hard']; assert abs(r['value'] - mean) < 1e-5 and r['low'] < mean < r['high'] and f'{groups[dataset]["best"]["ratio"]["value"]:.2f}' in plate.caption
    with pytest.raises(Problem, match='too few to count'): failures(FIGURES['failure_cases'], replace(ask, n_clips=12))


def test_confusion_and_curves_from_a_run(tmp_path):
    run = tmp_path/'dtfvd16-smoke-s0'; run.mkdir(); n = len(DYNAMICS); ask = Ask(preset='smoke', runs=tmp_path)
    write_json(run/'metrics.json', dict(confusion=(10*np.eye(n, dtype=int)).tolist(), classes=list(DYNAMICS), test_accuracy=.5, n_test=180, train_accuracy_logged=.25)); write_json(run/'run.json', dict(name=run.name, data=dict(fingerprint='f'), provenance=dict(commit='c')))
    log = Log(run/'log-backbone.csv')
    for k in range(20): log.add(step=k, loss=3. - .1*k, accuracy=.05*k, test_loss=3., test_accuracy=.1)
    log.save()
    for name in ('fig2_confusion', 'fig3_curves'):
        plate = figure(name, ask); assert '50.0 %' in plate.caption and '84.0' in plate.caption; [file] = write_figure(name, plate, ask, tmp_path/'out'); assert Image.open(file).width > 400
    assert json.loads((tmp_path/'out'/'sources.json').read_text())['fig2_confusion.png']['commit'] == 'c'


def test_the_committed_backbone_is_shown_where_its_run_is_not(tmp_path):
    plate = figure('fig2_confusion', Ask(runs=tmp_path)); [file] = write_figure('fig2_confusion', plate, Ask(runs=tmp_path), tmp_path)
    old = json.loads((ROOT/'figures'/'sources.json').read_text())['confusion-dtfvd-drawn-16.png']; new = json.loads((tmp_path/'sources.json').read_text())[file.name]
    assert 'came with the project' in plate.caption and (new['run'], new['commit']) == (old['run'], old['commit'])
    for other in (dict(preset='quick'), dict(seed=1), dict(frames=32)):
        with pytest.raises(Problem, match='nbs/dtfvd.ipynb'): figure('fig3_curves', Ask(runs=tmp_path, **other))


def test_a_film_that_does_not_fit_is_refused_and_leaves_nothing(ask, tmp_path):
    plate = figure('iper_samples', ask); best = save_film(plate, tmp_path/'a.webp').stat().st_size; less = save_film(plate, tmp_path/'b.webp', limit=int(.8*best)).stat().st_size
    assert less <= .8*best
    with pytest.raises(Problem, match='-p n_starts 2'): save_film(plate, tmp_path/'c.webp', limit=2000)
    assert not (tmp_path/'c.webp').exists()


def command(runs, *args):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    return subprocess.run([str(Path(sys.executable).with_name('papermill')), 'nbs/figures.ipynb', *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_the_command_draws_one_figure_and_reports(ask, tmp_path):
    done = command(ask.runs, '-p', 'which', 'transfer_landscape', '-p', 'preset', 'smoke', '-p', 'n_starts', '2', '-p', 'cycles', '1', '-p', 'out', str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {f.name for f in tmp_path.iterdir()} == {'transfer_landscape.webp', 'transfer_landscape.png', 'sources.json', 'gallery.md'}
    report = json.loads((ask.runs/'figures'/'figures.ipynb').read_text()); assert any('image/png' in o.get('data', {}) for c in report['cells'] for o in c.get('outputs', []))


def test_the_command_names_what_is_missing(tmp_path):
    done = command(tmp_path, '-p', 'which', 'endpoint_bair', '-p', 'preset', 'quick')
    assert done.returncode and 'train it: papermill nbs/train.ipynb -p dataset bair -p control endpoint' in done.stderr and 'Traceback' not in done.stderr
    done = command(tmp_path, '-p', 'which', 'endpont_bair'); assert done.returncode and "'endpoint_bair'" in done.stderr
