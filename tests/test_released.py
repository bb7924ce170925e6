"The authors' released folders, written here in their layout: every place where a run is named takes them, and what is wrong is said and not run."
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import comm
import numpy as np
import pytest
import torch
from PIL import Image

from i2v_paper import core
from i2v_paper.animate import animate
from i2v_paper.cinn import CINN
from i2v_paper.control import eta
from i2v_paper.core import Problem
from i2v_paper.decoder import Decoder
from i2v_paper.embedder import ImageEncoder
from i2v_paper.encoder import Encoder
from i2v_paper.figures import Ask, figure, write_figure
from i2v_paper.obedience import obey, open_pair
from i2v_paper.official import official_endpoint, to_official
from i2v_paper.protocol import find_run
from i2v_paper.released import open_released, released_run
from i2v_paper.synthesis import load_run, run_of
from i2v_paper.widgets import told_beside

ROOT = Path(__file__).resolve().parent.parent
PAPERMILL = Path(sys.executable).with_name('papermill')
DATA = Path(os.environ.get('I2V_TEST_DATA') or 'nowhere')/'official-parity'

STAGE1 = """Decoder:
  channel_factor: 8
  z_dim: 16
  upsample_s: [{up_s}]
  upsample_t: [{up_t}]
  spectral_norm: True

Encoder:
  res_type_encoder: 'resnet18'
  deterministic: false
  use_max_pool: false
  z_dim: 16
  channels: [64, 16, 16, 16, 16]
  stride_t: [1, 2, 2, 1]
  stride_s: [1, 2, 2, {last}]

Training:
  w_kl: 1e-6
  n_epochs: 100
  lr: 2e-4
  savename: 'INSERT_NAME_HERE'

Data:
  sequence_length: 9
  img_size: {size}
  dataset: '{name}'
  aug: True
"""
AE = """AE:
  deterministic: False
  in_size: {size}
  norm: "{norm}"
  encoder_type: "{resnet}"
  use_actnorm_in_dec: False
  z_dim: 12
"""
STAGE2 = """Flow:
  n_flows: 5
  flow_hidden_depth: 2
  flow_mid_channels_factor: 8

Conditioning_Model:
  z_dim: 12
  checkpoint_name: 'Encoder_stage2'
  model_name: 'the_ae/'
  model_path: '/export/elsewhere/'

First_stage_model:
  checkpoint_encoder: 'best_PFVD_ENC'
  checkpoint_decoder: 'best_PFVD_GEN'
  model_name: 'the_vae/'
  model_path: '/export/elsewhere/'

Training:
  n_epochs: 31
  lr: 1e-5
{control}
Data:
  sequence_length: 9
  img_size: {size}
  dataset: '{name}'
{texture}  aug: True
"""


def put(path, kind, net, **more):
    path.parent.mkdir(parents=True, exist_ok=True); torch.save(dict(state_dict=to_official(kind, net.state_dict())) | more, path)


def write(root, name, size=32, norm='bn', resnet='resnet18', texture='', control=(False,), seed=0):
    "A data set's folder as the authors lay it out, and the networks whose weights it holds"
    torch.manual_seed(seed); at = root/name if not texture else root/name/texture; big = resnet == 'resnet50'
    g, e = Decoder(16, 8, 8, size), Encoder(16, (64, 16, 16, 16, 16), (1, 2, 2, 1), (1, 2, 2, size//32), frames=8, size=size)
    a = ImageEncoder(12, (64, 128, 256, 512) if big else (16, 32, 64, 128), (3, 4, 6, 3) if big else (2, 2, 2, 2), big, 16, norm={'bn': 'batch', 'in': 'instance'}[norm])
    with torch.no_grad():
        for _ in range(3): g(torch.rand(1, 3, size, size), torch.randn(1, 16))
        a.train()(torch.rand(4, 3, size, size)); a.eval()                                    # running statistics that are not the usual ones
    optim = dict(epoch=3, optim_state_dict=torch.optim.Adam([torch.zeros(2, requires_grad=True)]).state_dict(), loss=np.float64(.5))
    put(at/'the_vae/best_PFVD_GEN.pth', 'decoder', g, **optim); put(at/'the_vae/best_PFVD_ENC.pth', 'encoder', e, **optim); put(at/'the_ae/Encoder_stage2.pth', 'embedder', a)
    data = dict(size=size, name={'bair': 'BAIR'}.get(name, name))
    (at/'the_vae/config_stage1.yaml').write_text(STAGE1.format(up_s='1, 1' if size == 32 else '2, 1', up_t='1, 1', last=size//32, **data)); (at/'the_ae/config_stage2_AE.yaml').write_text(AE.format(norm=norm, resnet=resnet, size=size))
    flows = {}
    for told in control:
        flow = flows[told] = CINN(16, 12, 30*told, n_blocks=5, depth=4, leaky=.9, count_leaky=False, full_every=4 if told else 1, zero_init=False)
        with torch.no_grad(): flow(torch.randn(64, 16), torch.randn(64, 12), torch.randn(64, 30) if told else None)
        put(at/f'stage2{"_control"*told}/cINN.pth', 'cinn', flow)
        (at/f'stage2{"_control"*told}/config_stage2.yaml').write_text(STAGE2.format(control='  control: True\n' if told else '', texture=f"  texture: '{texture}'\n" if texture else '', **data))
    return at, g.eval(), e.eval(), a, flows


def listing(folder): return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob('*')}


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp('theirs')/'models'; there = {n: write(root, n, **kw) for n, kw in dict(landscape={}, bair=dict(size=64, norm='in', resnet='resnet50', control=(False, True), seed=1)).items()}
    there['fire'] = write(root, 'DTDB', texture='fire', seed=2); before = listing(root)
    yield root, there
    assert listing(root) == before, 'something wrote into the authors\' folder'


@pytest.mark.parametrize('name, dataset, told', [('landscape', 'landscape', False), ('bair', 'bair', False), ('bair', 'bair', True), ('fire', 'dtdb-fire', False)])
def test_folder_gives_the_networks_that_were_written(models, name, dataset, told):
    at, g, e, a, flows = models[1][name]; system = load_run(f'official:{at}/stage2_control' if told else f'official:{at}'); s = system.settings
    assert (s.dataset, s.preset, s.frames, s.z_dim, s.n_blocks, s.released, s.control) == (dataset, 'official', 8, 16, 5, True, 'endpoint-official' if told else '')
    x0, X, z = torch.rand(2, 3, s.size, s.size)*2 - 1, torch.rand(2, 8, 3, s.size, s.size)*2 - 1, torch.randn(2, 16); c = official_endpoint([[.6, 0., .25], [.5, .1, .2]]) if told else None
    with torch.no_grad():
        code = a(x0)[0]; assert code.std() > 1e-3 and torch.equal(system.embedder(x0), code)
        assert torch.equal(system.video.decode(x0, z), g(x0, z)) and torch.equal(system.video.encode(X)[0], e(X)[0])
        for got, want in zip(system.dynamics(z, code, c), flows[told](z, code, c)): torch.testing.assert_close(got, want)
        torch.testing.assert_close(system.dynamics.inverse(z, code, c), flows[told].inverse(z, code, c))


def test_end_points_are_told_in_the_authors_bins():
    metres = torch.tensor([[.42638585, -.3080245, .19146784], [.6, 0., .25], [.42638585 + .42850533, -.3080245 + .54029283, .19146784 + .12564658], [.5121, .0160, .2040]])
    assert torch.equal(eta('endpoint-official', metres, drawn=False), official_endpoint(metres))


def test_animate(models, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path/'photo.png')
    film = animate(tmp_path/'photo.png', run=f'official:{models[0]}/landscape', n=2, times=2, out=tmp_path/'photo.mp4')
    assert film.shape == (2, 17, 32, 32, 3) and (tmp_path/'photo.mp4').stat().st_size > 500
    assert animate(tmp_path/'photo.png', run=f'official:{models[0]}/DTDB/fire', n=1).shape == (1, 9, 32, 32, 3)


def notebook(name, runs, *args, seconds=300):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    p = subprocess.run([str(PAPERMILL), f'nbs/{name}.ipynb', *[str(v) for a in args for v in ('-p', *a)]], cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    return p.returncode, p.stderr


@pytest.fixture(scope='module')
def runs(tmp_path_factory): return tmp_path_factory.mktemp('runs')


def test_evaluate(models, runs):
    status, err = notebook('evaluate', runs, ('run', f'official:{models[0]}/landscape'), ('metrics', 'EffLite0 MSE'), ('n_clips', 8), ('n_futures', 2)); assert status == 0, err
    folder, = runs.glob('landscape-released-*'); scores = json.loads((folder/'metrics.json').read_text())['scores']
    assert {s['system'] for s in scores} == {"ours, authors' weights", 'repeat x0', 'true futures'} and all(s['data'] == 'drawn stand-in' and s['preset'] == 'official' and s['frames'] == 16 for s in scores)
    assert 'official:<folder>' in scores[0]['command'] and str(models[0]) not in json.dumps(scores) and (folder/'evaluate.ipynb').exists()
    record = json.loads((folder/'run.json').read_text()); assert set(record['released']) == {'cINN.pth', 'best_PFVD_GEN.pth', 'best_PFVD_ENC.pth', 'Encoder_stage2.pth'} and all(len(v) == 64 for v in record['released'].values())
    assert load_run(run_of(folder.name, runs)).settings.released                                # by its name, too


def test_evaluate_says_what_is_wrong(models, runs):
    status, err = notebook('evaluate', runs, ('run', f'official:{models[0]}')); assert status == 1 and 'give the folder of one data set: ' in err and 'bair' in err and 'Traceback' not in err
    with pytest.raises(Problem, match='there is no folder(.|\n)*config_stage2.yaml'): find_run('official:/nowhere/models')                       # the same cell


def play(monkeypatch, tmp_path, **given):
    "What the code cells of play.ipynb leave behind, run here with these parameters"
    monkeypatch.setattr(comm, 'create_comm', comm._create_comm); monkeypatch.setattr(core, 'RUNS', tmp_path/'runs'); there = {}
    for c in json.loads((ROOT/'nbs'/'play.ipynb').read_text(encoding='utf-8'))['cells']:
        if c['cell_type'] == 'code': exec(''.join(c['source']), there); there.update(given if 'parameters' in c['metadata'].get('tags', []) else {})
    return there


def test_play(models, tmp_path, monkeypatch, capsys):
    shown = play(monkeypatch, tmp_path, run=f'official:{models[0]}/bair', clouds=''); out = capsys.readouterr().out
    assert shown['told'] == f'official:{models[0]}/bair/stage2_control' and 'these weights have seen no drawn clip' in out
    there = shown['aim'](shown['goal'], 40, 20, .06, 2); assert there.note == "told: x 0.70, y 0.04, z 0.25 m in the robot's own axes" and there.clips.shape == (2, 9, 64, 64, 3)      # the middles of the bins
    assert not np.array_equal(there.clips, shown['aim'](shown['goal'], 5, 60, .06, 2).clips)
    with pytest.raises(Problem, match='stage2_control'): shown['aim'](shown['scene'], 32, 32)
    with pytest.raises(Problem, match='give it as -p told'): play(monkeypatch, tmp_path, run=f'official:{models[0]}/bair/stage2_control')
    assert told_beside(f'official:{models[0]}/landscape') == ''
    with pytest.raises(Problem, match='pictures of 64 pixels'): play(monkeypatch, tmp_path, run=f'official:{models[0]}/landscape', told=shown['told'], clouds='')


def test_what_is_asked_of_a_model_has_to_fit(models, tmp_path):
    arm = load_run(f'official:{models[0]}/bair/stage2_control'); Image.new('RGB', (80, 60)).save(tmp_path/'photo.png')
    with pytest.raises(Problem, match='told endpoint-official'): animate(tmp_path/'photo.png', run=arm, n=1)
    with pytest.raises(Problem, match='resize'): arm.futures(torch.zeros(1, 3, 32, 32), 1, eta=eta('endpoint-official', [[.6, 0., .25]], drawn=False))
    with pytest.raises(Problem, match='leave eta out'): load_run(f'official:{models[0]}/landscape').futures(torch.zeros(1, 3, 32, 32), 1, eta=torch.zeros(1, 30))


def test_figures(models, runs):
    status, err = notebook('figures', runs, ('which', 'landscape_diversity'), ('run', f'official:{models[0]}'), ('n_starts', 2), ('n_futures', 2), ('cycles', 1)); assert status == 0, err
    told = json.loads((runs/'figures'/'sources.json').read_text())['landscape_diversity.webp']
    assert 'official:<folder>' in told['command'] and told['runs'][0].startswith('landscape-released-') and 'Drawn stand-in' in told['caption'] and (runs/'figures'/'landscape_diversity.png').exists()


def test_more_figures(models, tmp_path):
    ask = Ask(n_starts=2, n_futures=2, cycles=1, runs=tmp_path, run=f'official:{models[0]}')
    for name in ('endpoint_bair', 'fire'):
        plate = figure(name, ask); assert write_figure(name, plate, ask, tmp_path/'out')
        if name == 'endpoint_bair': assert plate.runs[0].path.name.startswith('bair-released-endpoint-')
    for name, words in dict(direction_clouds1='released no flow that is told a direction', iper_samples='there is no folder', clouds='there is no folder', fig1_decoder='there is no folder').items():
        with pytest.raises(Problem, match=words): figure(name, ask)
    with pytest.raises(Problem, match='official:<folder>'): Ask(run='bair-small-s0')


def test_obey(models, tmp_path):
    pair = open_pair('bair', 'small', run=f'official:{models[0]}/landscape', runs=tmp_path); assert pair.told is None and 'not trained on' in pair.words
    more = len(pair.clips) + 3; assert len(open_pair('bair', 'small', run=f'official:{models[0]}/landscape', runs=tmp_path, n_starts=more).clips) == more
    records = obey(None, pair.free, pair.clips, None, 2, 0, 4); assert {r['claim'] for r in records} >= {'brightness', 'carried_direction'}
    with pytest.raises(Problem, match='official:<folder>'): open_pair('bair', 'small', run='bair-small-s0')


# ---- what is wrong

class Code:
    def __init__(self, to): self.to = to
    def __reduce__(self): return os.mkdir, (str(self.to),)


def half(f): f.write_bytes(f.read_bytes()[:f.stat().st_size//2])
def swap(f, a, b): t = f.read_text(); assert a in t; f.write_text(t.replace(a, b))
def reshape(f, key, change):
    held = torch.load(f, weights_only=False); held['state_dict'][key] = change(held['state_dict'][key]); torch.save(held, f)


GEN, ENC, FLOW, EMB = 'the_vae/best_PFVD_GEN.pth', 'the_vae/best_PFVD_ENC.pth', 'stage2/cINN.pth', 'the_ae/Encoder_stage2.pth'
ONE, TWO, AUTO = 'the_vae/config_stage1.yaml', 'stage2/config_stage2.yaml', 'the_ae/config_stage2_AE.yaml'
WRONG = {
    'decoder in place of the flow': (lambda p, ran: shutil.copy(p/GEN, p/FLOW), ('cINN.pth', "kind 'decoder'")),
    'flow in place of the embedder': (lambda p, ran: shutil.copy(p/FLOW, p/EMB), ('Encoder_stage2.pth', "kind 'cinn'")),
    'a web page': (lambda p, ran: (p/GEN).write_text('<html>quota exceeded</html>'), ('best_PFVD_GEN.pth', 'download it again')),
    'an empty file': (lambda p, ran: (p/GEN).write_bytes(b''), ('best_PFVD_GEN.pth', 'download it again')),
    **{f'half of {n}': (lambda p, ran, f=f: half(p/f), (Path(f).name, 'cut off')) for n, f in dict(decoder=GEN, encoder=ENC, flow=FLOW, embedder=EMB).items()},
    'half of a configuration': (lambda p, ran: half(p/TWO), ('config_stage2.yaml',)),
    'an empty configuration': (lambda p, ran: (p/ONE).write_text(''), ('config_stage1.yaml', 'no configuration')),
    'code beside weights': (lambda p, ran: torch.save(dict(state_dict={'a': Code(ran)}), p/ENC), ('best_PFVD_ENC.pth', 'mkdir', 'nothing in it was run')),
    'code in the old format': (lambda p, ran: torch.save(dict(state_dict={'a': Code(ran)}), p/FLOW, _use_new_zipfile_serialization=False), ('cINN.pth', 'mkdir', 'nothing in it was run')),
    'code in a bare pickle': (lambda p, ran: (p/EMB).write_bytes(__import__('pickle').dumps(Code(ran))), ('Encoder_stage2.pth', 'nothing in it was run')),
    'code in a configuration': (lambda p, ran: (p/AUTO).write_text(f'AE: !!python/object/apply:os.mkdir ["{ran}"]\n'), ('config_stage2_AE.yaml', 'nothing in it was run')),
    'an image encoder that does not exist': (lambda p, ran: swap(p/AUTO, 'resnet18', 'resnet81'), ('resnet81', 'does not exist', 'known: resnet18')),
    'a norm that does not exist': (lambda p, ran: swap(p/AUTO, '"bn"', '"gn"'), ("'gn'", 'does not exist')),
    'a video encoder that does not exist': (lambda p, ran: swap(p/ONE, "'resnet18'", "'resnet50'"), ("'resnet50'", 'does not exist')),
    'a data set that does not exist': (lambda p, ran: swap(p/TWO, "'landscape'", "'landscap'"), ('landscap', "did you mean 'landscape'")),
    'another ResNet': (lambda p, ran: swap(p/AUTO, 'resnet18', 'resnet34'), ('resnet34', '(2, 2, 2, 2)')),
    'another norm': (lambda p, ran: swap(p/AUTO, '"bn"', '"in"'), ('model.bn1.weight', 'batch norm')),
    'another channel factor': (lambda p, ran: swap(p/ONE, 'channel_factor: 8', 'channel_factor: 32'), ('conv_img.weight', '32', '8')),
    'another z': (lambda p, ran: swap(p/ONE, 'channel_factor: 8\n  z_dim: 16', 'channel_factor: 8\n  z_dim: 64'), ('Decoder.z_dim = 64', '16')),
    'another number of blocks': (lambda p, ran: swap(p/TWO, 'n_flows: 5', 'n_flows: 20'), ('Flow.n_flows = 20', '5')),
    'another size': (lambda p, ran: swap(p/ONE, 'img_size: 32', 'img_size: 64'), ('Data.img_size = 64', '32')),
    'three upsamplings': (lambda p, ran: swap(p/ONE, 'upsample_t: [1, 1]', 'upsample_t: [1, 1, 1]'), ('upsample_t',)),
    'control that is not there': (lambda p, ran: swap(p/TWO, '  lr: 1e-5', '  lr: 1e-5\n  control: True'), ('cINN.pth', 'Training.control', '20 columns')),
    'a tensor of another shape': (lambda p, ran: reshape(p/GEN, 'g_1.conv_0.bias', lambda v: v[:-1]), ('best_PFVD_GEN.pth', 'g_1.conv_0.bias (63,), not (64,)')),
    'a tensor that is missing': (lambda p, ran: reshape(p/FLOW, 'sub_layers.2.coupling.t.1.main.4.weight', lambda v: v[:, :1]), ('cINN.pth', 'sub_layers.2.coupling.t.1.main.4.weight')),
    'a file that is missing': (lambda p, ran: (p/EMB).unlink(), ('no Encoder_stage2.pth',)),
    'a folder that is missing': (lambda p, ran: shutil.rmtree(p/'the_vae'), ('First_stage_model', 'no config_stage1.yaml')),
}


@pytest.mark.parametrize('what', WRONG)
def test_what_is_wrong_is_said_and_not_run(models, tmp_path, what):
    change, words = WRONG[what]; at = tmp_path/'landscape'; shutil.copytree(models[1]['landscape'][0], at); ran = tmp_path/'ran'; change(at, ran)
    with pytest.raises(Problem) as e: load_run(f'official:{at}')
    text = str(e.value); assert all(w in text for w in words), text
    assert text.count('\n') < 3 and not ran.exists()


def test_a_missing_encoder_is_missed_by_transfers_only(models, tmp_path):
    at = tmp_path/'landscape'; shutil.copytree(models[1]['landscape'][0], at); (at/ENC).unlink(); system = load_run(f'official:{at}'); x0 = torch.rand(1, 3, 32, 32)
    assert system.futures(x0, 2).shape == (1, 2, 8, 3, 32, 32)
    with pytest.raises(Problem, match='best_PFVD_ENC.pth'): system.transfer(torch.rand(1, 9, 3, 32, 32), x0)
    shutil.copy(models[1]['landscape'][0]/ENC, at/f'{ENC}.tar'); assert load_run(f'official:{at}').transfer(torch.rand(1, 9, 3, 32, 32), x0).shape == (1, 8, 3, 32, 32)


def test_two_first_stages_are_not_guessed(models, tmp_path):
    at = tmp_path/'landscape'; shutil.copytree(models[1]['landscape'][0], at); shutil.copytree(at/'the_vae', at/'vae_1'); (at/'the_vae').rename(at/'vae_2')
    with pytest.raises(Problem, match='vae_1, vae_2'): open_released(at)
    shutil.rmtree(at/'vae_2'); assert open_released(at).decoder.parent.name == 'vae_1'


def test_control_is_found_beside(models):
    run = released_run(models[0], 'bair', True); assert run.files.control and run.files.flow.parent.name == 'stage2_control'
    with pytest.raises(Problem, match='stage2_control'): released_run(models[0], 'landscape', True)


@pytest.mark.skipif(not DATA.is_dir(), reason="the authors' networks' outputs: set I2V_TEST_DATA to a folder that holds official-parity")
@pytest.mark.parametrize('told', [False, True])
def test_weights_of_the_authors_own_networks_through_the_folder(tmp_path, told):
    "Generator, encoder and flow as the authors' code saved them, at a small size; the answers are those that it recorded"
    read = lambda n: torch.load(DATA/f'{n}.pt', weights_only=True); gen, enc, flow = read('tiny_decoder'), read('tiny_encoder'), read('tiny_cinn_control' if told else 'tiny_cinn')
    at = tmp_path/'bair'; c = flow['outputs']['embedding'].shape[1]; embedder = ImageEncoder(c, (16, 32, 64, 128), (2, 2, 2, 2), False, 16)
    put(at/EMB, 'embedder', embedder); (at/'the_vae').mkdir(); where = f'stage2{"_control"*told}'; (at/where).mkdir()
    for file, r in ((GEN, gen), (ENC, enc), (f'{where}/cINN.pth', flow)): torch.save(dict(state_dict=r['state_dict']), at/file)
    one = STAGE1.format(up_s='2, 1', up_t='2, 1', last=2, size=64, name='BAIR').replace('[64, 16, 16, 16, 16]', '[64, 64, 64, 64, 64]').replace('[1, 2, 2, 1]', '[1, 2, 2, 2]')
    (at/ONE).write_text(one); (at/AUTO).write_text(AE.format(norm='in', resnet='resnet18', size=64).replace('z_dim: 12', f'z_dim: {c}'))
    (at/where/'config_stage2.yaml').write_text(STAGE2.format(control='  control: True\n' if told else '', texture='', size=64, name='BAIR').replace('z_dim: 12', f'z_dim: {c}'))
    system = load_run(f'official:{at}/{where}'); close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    with torch.no_grad():
        close(system.video.decode(gen['inputs']['x0'], gen['inputs']['z']), gen['outputs']['video_eval']); close(system.video.encode(enc['inputs']['x_BTCHW'])[0], enc['outputs']['mu'])
        eta_, z = flow['outputs']['pos_onehot'], flow['inputs']['z']; nu, logdet = system.dynamics(z, flow['outputs']['embedding'], eta_)
        close(nu, flow['outputs']['nu']); close(logdet, flow['outputs']['logdet']); close(system.dynamics.inverse(nu, flow['outputs']['embedding'], eta_), flow['outputs']['inverse'])
