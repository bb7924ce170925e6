"The losses against closed forms, against the authors' numbers, and on the critics that train with them."
import os
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal, kl_divergence as reference

from i2v_paper.critics import PatchDiscriminator, TemporalDiscriminator
from i2v_paper.losses import (VideoLoss, adversarial, feature_matching, gradient_penalty, hinge_discriminator, kl_divergence, pick,
                              static_critic_loss, temporal_critic_loss, window)

PARITY = Path(os.environ.get('I2V_TEST_DATA', ''))/'official-parity'
OFFICIAL = pytest.mark.skipif(not os.environ.get('I2V_TEST_DATA') or not (PARITY/'tiny_losses.pt').is_file(),
                              reason='I2V_TEST_DATA does not name a folder with official-parity/tiny_losses.pt')


def official(name): return torch.load(PARITY/f'{name}.pt', weights_only=True)
def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def d_t():
    torch.manual_seed(0)
    return TemporalDiscriminator((8, 8, 8, 8), (2, 2, 1), (1, 2, 1), frames=8, size=16, groups=4)


@pytest.fixture
def d_s():
    torch.manual_seed(0)
    return PatchDiscriminator(ndf=8, n_layers=2)


@pytest.fixture
def videos(): return noise(4, 8, 3, 16, 16).tanh(), noise(4, 8, 3, 16, 16, seed=1).tanh()


def test_kl_is_that_of_torch():
    mu, logvar = noise(7, 16), noise(7, 16, seed=1)
    assert kl_divergence(mu, logvar).item() == pytest.approx(reference(Normal(mu, (logvar/2).exp()), Normal(0., 1.)).sum(1).mean().item(), rel=1e-5)


@OFFICIAL
def test_kl_is_that_of_the_authors():
    "The other values of that file come from a temporal critic whose weights it does not hold"
    q = official('tiny_encoder')['outputs']
    assert kl_divergence(q['mu'], q['logvar']).item() == pytest.approx(official('tiny_losses')['outputs']['kl'].item(), abs=1e-4)


@pytest.mark.parametrize('real, fake, expected', [(1., -1., 0.), (2., -5., 0.), (0., 0., 2.), (-1., 1., 4.), (.5, -.25, 1.25)])
def test_hinge_by_hand(real, fake, expected):
    real, fake = torch.full((3, 1, 4, 4), real), torch.full((5,), fake)
    assert hinge_discriminator(real, fake).item() == pytest.approx(expected)
    assert hinge_discriminator(real, fake, half=True).item() == pytest.approx(expected/2)


def test_hinge_clips_each_logit_before_the_mean():
    assert hinge_discriminator(torch.tensor([3., -1.]), torch.tensor([-3., -1.])).item() == pytest.approx(1.)


@pytest.mark.parametrize('B', [1, 4])
def test_penalty_of_a_linear_critic_is_its_squared_norm(B):
    w, X = noise(24), noise(B, 2, 3, 2, 2, seed=1).requires_grad_()
    norm = w.square().sum().item()
    assert gradient_penalty(X.flatten(1) @ w, X).item() == pytest.approx(norm, rel=1e-5)
    assert gradient_penalty(X.flatten(1) @ w, X, batch_mean=True).item() == pytest.approx(norm/B**2, rel=1e-5)


def test_penalty_averages_over_clips():
    "D(X) = |X|^2 / 2 has gradient X: the penalty is the mean squared norm of the clips"
    X = noise(5, 2, 3, 2, 2).requires_grad_()
    assert gradient_penalty(X.flatten(1).square().sum(1)/2, X).item() == pytest.approx(X.flatten(1).square().sum(1).mean().item(), rel=1e-5)


def test_penalty_needs_clips_with_gradient():
    with pytest.raises(ValueError, match='requires_grad_'): gradient_penalty(torch.zeros(2), torch.zeros(2, 3))


def test_critic_loss_differentiates_through_the_penalty(d_t, videos):
    "Central differences along a random direction of all weights, in double precision and so close that no ReLU changes sides"
    d_t, (X, X_hat) = d_t.double().eval(), (v.double() for v in videos)
    weights = list(d_t.parameters())
    step = [1e-7*noise(*p.shape, seed=i).double() for i, p in enumerate(weights)]
    def value(s, **kw):
        with torch.no_grad():
            for p, d in zip(weights, step): p.add_(s*d)
        loss = temporal_critic_loss(d_t, X, X_hat, **kw)[0].item()
        with torch.no_grad():
            for p, d in zip(weights, step): p.sub_(s*d)
        return loss
    slopes = {}
    for lambda_GP in (0., 10.):
        grads = torch.autograd.grad(temporal_critic_loss(d_t, X, X_hat, lambda_GP=lambda_GP)[0], weights)
        slopes[lambda_GP] = sum((g*d).sum() for g, d in zip(grads, step)).item()
        assert (value(1, lambda_GP=lambda_GP) - value(-1, lambda_GP=lambda_GP))/2 == pytest.approx(slopes[lambda_GP], rel=1e-5)
    assert abs(slopes[10.] - slopes[0.]) > .01*abs(slopes[0.])      # the penalty's part is not lost in the comparison


def test_critic_losses_do_not_reach_the_generator_nor_the_data(d_t, d_s, videos):
    X, X_hat = (v.requires_grad_() for v in videos)
    (temporal_critic_loss(d_t, X, X_hat)[0] + static_critic_loss(d_s, X.detach().flatten(0, 1), X_hat.flatten(0, 1))[0]).backward()
    assert X.grad is None and X_hat.grad is None
    assert all(p.grad is not None for net in (d_t, d_s) for p in net.parameters())


def test_penalty_weight_zero_skips_the_second_pass(d_t, videos):
    assert temporal_critic_loss(d_t.eval(), *videos, lambda_GP=0.)[1]['gp'] == 0
    (a, parts), b = temporal_critic_loss(d_t, *videos), temporal_critic_loss(d_t, *videos, lambda_GP=0.)[0]
    assert (a - b).item() == pytest.approx(10*parts['gp'].item(), rel=1e-4)


def test_video_loss_is_the_weighted_sum_and_trains_only_the_generator(d_t, d_s, videos):
    X, X_hat = videos
    mu, logvar = noise(4, 6).requires_grad_(), noise(4, 6, seed=1).requires_grad_()
    X_hat.requires_grad_()
    percep = lambda a, b: (a - b).square().mean((1, 2, 3))
    weights = dict(lambda_l1=2., lambda_percep=3., lambda_F=5., beta=.7)
    total, p = VideoLoss(percep, **weights)(X, X_hat, mu, logvar, d_s.eval(), d_t.eval())
    assert set(p) == {'l1', 'percep', 'kl', 'adv_s', 'adv_t', 'fmap', 'total'} and not any(v.requires_grad for v in p.values())
    by_hand = dict(l1=(X - X_hat).abs().mean(), percep=(X - X_hat).square().mean(), kl=kl_divergence(mu, logvar), adv_t=-d_t(X_hat)[0].mean(),
                   adv_s=-d_s(X_hat.flatten(0, 1)).mean(), fmap=feature_matching(d_t(X_hat)[1], d_t(X)[1]))
    for k, v in by_hand.items(): assert p[k].item() == pytest.approx(v.item(), abs=1e-5), k
    factor = dict(l1=2., percep=3., kl=.7, adv_t=1., adv_s=1., fmap=5.)
    assert total.item() == pytest.approx(sum(factor[k]*v.item() for k, v in by_hand.items()), rel=1e-5)
    total.backward()
    for v in (X_hat, mu, logvar): assert v.grad.isfinite().all() and v.grad.abs().sum() > 0
    assert all(q.grad is None and q.requires_grad for net in (d_t, d_s) for q in net.parameters())


def test_paper_weights_are_the_defaults():
    loss = VideoLoss()
    assert (loss.lambda_l1, loss.lambda_percep, loss.lambda_F, loss.beta) == (10, 1, 10, 1e-6)
    X = noise(2, 4, 3, 8, 8)
    assert loss(X, X + .5, torch.zeros(2, 3), torch.zeros(2, 3))[0].item() == pytest.approx(5.)


def test_subsets_are_the_same_for_both_videos_and_repeat_with_their_generator(videos):
    X, seeded = videos[0], lambda: torch.Generator().manual_seed(5)
    a, b = pick(X, X + 1, n=20, generator=seeded())
    assert a.shape == (20, 3, 16, 16) and torch.equal(a + 1, b) and torch.equal(a, *pick(X, n=20, generator=seeded()))
    a, b = window(X, X + 1, length=3, generator=seeded())
    assert torch.equal(a + 1, b) and any(torch.equal(a, X[:, s:s+3]) for s in range(6))
    starts = set()
    for seed in range(60):
        cut, = window(X, length=3, generator=torch.Generator().manual_seed(seed))
        starts |= {s for s in range(6) if torch.equal(cut, X[:, s:s+3])}
    assert starts == set(range(6))                                  # every window, the last one too
