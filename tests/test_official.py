"The networks against the authors' own, run at a small size with random weights: what nbs/19_official.ipynb cannot show without their files"
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from i2v_paper.core import Problem
from i2v_paper.critics import PatchDiscriminator
from i2v_paper.encoder import reparametrize
from i2v_paper.official import END_LOW, END_RANGE, NAMES, from_official, load_official, official_endpoint, official_options, to_official

DATA = Path(os.environ.get('I2V_TEST_DATA') or 'nowhere')/'official-parity'
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the authors' networks' outputs: set I2V_TEST_DATA to a folder that holds official-parity")
TOL = 1e-4
KINDS = {'tiny_encoder': 'encoder', 'tiny_decoder': 'decoder', 'tiny_disc_s': 'disc_s', 'tiny_cinn': 'cinn', 'tiny_cinn_control': 'cinn'}


def recorded(name): return torch.load(DATA/f'{name}.pt', weights_only=True)
def apart(a, b): return (a - b).abs().max().item()


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad(): yield


def test_encoder():
    r = recorded('tiny_encoder')
    mu, logvar = load_official('encoder', r['state_dict'])(r['inputs']['x_BTCHW'])
    out = r['outputs']
    assert apart(mu, out['mu']) < TOL and apart(logvar, out['logvar']) < TOL
    assert apart(reparametrize(mu, logvar, r['inputs']['eps']), out['z']) < TOL
    assert mu.std() > .05                                     # not trivially equal


def test_decoder_in_eval():
    r = recorded('tiny_decoder')
    net = load_official('decoder', r['state_dict'])
    X = net(r['inputs']['x0'], r['inputs']['z'])
    assert apart(X, r['outputs']['video_eval']) < TOL and X.std() > .05
    maps = net.modulation(r['inputs']['x0'][:1])              # and through the shared path
    assert apart(net(r['inputs']['x0'][:1], r['inputs']['z'][:1], maps), r['outputs']['video_eval'][:1]) < TOL


def test_decoder_blocks_in_eval():
    r = recorded('tiny_decoder')
    net, means = load_official('decoder', r['state_dict']), []
    for b in net.blocks: b.register_forward_hook(lambda m, i, o: means.append(o.mean((2, 3, 4))))
    net(r['inputs']['x0'], r['inputs']['z'])
    for got, want in zip(means, r['outputs']['block_channel_means_eval'].values(), strict=True): assert apart(got, want) < TOL


def half_step(net):
    "The rest of the classic power iteration: u from the v that the modern one ended with"
    for m in net.modules():
        if hasattr(m, 'parametrizations'):
            norm = m.parametrizations.weight[0]
            norm._u.copy_(F.normalize(m.parametrizations.weight.original.flatten(1) @ norm._v, dim=0))


def test_decoder_in_training_is_half_a_power_step_apart():
    r = recorded('tiny_decoder')
    net = load_official('decoder', r['state_dict']).train()
    X = net(r['inputs']['x0'], r['inputs']['z'])
    assert TOL < apart(X, r['outputs']['video_train']) < .05
    half_step(net)
    assert apart(net.eval()(r['inputs']['x0'], r['inputs']['z']), r['outputs']['video_train']) < TOL
    state = to_official('decoder', net.state_dict())
    for k, u in r['u_after_one_train_forward'].items(): assert apart(state[k], u) < 1e-5


def test_static_critic():
    r = recorded('tiny_disc_s')
    patch = load_official('disc_s', r['state_dict'])(r['inputs']['x'])
    assert patch.shape == (8, 1, 6, 6) and apart(patch, r['outputs']['patch_eval']) < TOL and patch.std() > .05


def test_static_critic_before_its_first_batch():
    r = recorded('tiny_disc_s')
    net = load_official('disc_s', r['state_dict_before_init'])
    norms = [m for m in net.modules() if hasattr(m, 'initialized')]
    assert len(norms) == 3 and not any(m.initialized for m in norms)
    net.eval()(r['inputs']['x']); assert not any(m.initialized for m in norms)
    net.train()(r['inputs']['x']); assert all(m.initialized for m in norms)


@pytest.mark.parametrize('name', ['tiny_cinn', 'tiny_cinn_control'])
def test_flow(name):
    r = recorded(name)
    eta = r['outputs']['pos_onehot']
    flow = load_official('cinn', r['state_dict'], **({} if eta is None else dict(eta_dim=30)))
    c, z = r['outputs']['embedding'], r['inputs']['z']
    nu, logdet = flow(z, c, eta)
    assert apart(nu, r['outputs']['nu']) < TOL and apart(logdet, r['outputs']['logdet']) < TOL
    assert apart(flow.inverse(nu, c, eta), r['outputs']['inverse']) < TOL and apart(flow.inverse(nu, c, eta), z) < TOL
    assert apart(nu.square().sum(1).mean()/2 - logdet.mean(), r['outputs']['loss']) < TOL


def test_exact_likelihood_of_the_authors_flow():
    "The authors leave the LeakyReLU out of the log-determinant; `count_leaky` puts it back, and autograd agrees"
    r = recorded('tiny_cinn')
    c, z = r['outputs']['embedding'][:2], r['inputs']['z'][:2]
    exact = load_official('cinn', r['state_dict'], count_leaky=True).double()
    logdet = exact(z.double(), c.double())[1]
    with torch.enable_grad():
        J = torch.stack([torch.autograd.functional.jacobian(lambda x: exact(x[None], c[i:i+1].double())[0][0], z[i].double()) for i in range(2)])
    assert apart(torch.linalg.slogdet(J)[1], logdet) < 1e-6
    assert (logdet < r['outputs']['logdet'][:2] - .1).all()


def test_endpoint_bins():
    r = recorded('tiny_cinn_control')
    metres = torch.tensor(END_LOW) + torch.tensor(END_RANGE)*r['inputs']['pos']           # recorded in [0, 1]
    assert torch.equal(official_endpoint(metres), r['outputs']['pos_onehot'].float())


@pytest.mark.parametrize('name,kind', KINDS.items())
def test_names_there_and_back(name, kind):
    state = recorded(name)['state_dict']
    back = to_official(kind, from_official(kind, state))
    assert back.keys() == state.keys()
    for k, v in state.items(): assert torch.equal(back[k], v) and back[k].dtype == v.dtype, k


@pytest.mark.parametrize('name,kind', KINDS.items())
def test_wrong_kind_is_named(name, kind):
    state = recorded(name)['state_dict']
    for other in NAMES.keys() - {kind}:
        with pytest.raises(Problem) as e: from_official(other, state)
        assert f'{kind!r}' in str(e.value) and str(e.value).count('\n') < 3


def test_options_from_shapes():
    r = recorded('tiny_cinn_control')
    assert official_options('cinn', r['state_dict']) == dict(dim=16, cond_dim=94, n_blocks=5, hidden=128, depth=4, leaky=.9, count_leaky=False, full_every=4)
    assert official_options('decoder', recorded('tiny_decoder')['state_dict']) == dict(z_dim=16, nf=8, spade_hidden=128)
    assert official_options('disc_s', recorded('tiny_disc_s')['state_dict']) == dict(ndf=16, n_layers=3)
    assert official_options('encoder', recorded('tiny_encoder')['state_dict']) == dict(channels=(64,)*5, z_dim=16, stem_kernel=(3, 7, 7))


def test_authors_file_as_written(tmp_path):
    "The layout of the released files: weights beside the state of an optimiser"
    r = recorded('tiny_disc_s')
    torch.save(dict(state_dict=r['state_dict'], epoch=54, optim_state_dict=torch.optim.Adam(PatchDiscriminator(8).parameters()).state_dict()), tmp_path/'disc.pth')
    assert apart(load_official('disc_s', tmp_path/'disc.pth')(r['inputs']['x']), r['outputs']['patch_eval']) < TOL
