"""Bits back through the flow: what is taken comes back to the last bit, and what is paid is the KL divergence."""

import math

import numpy as np
import pytest
import torch
from codec_models import SIZE, images, trained

from agave.codec.entropy import LOWEST, Exhausted, Stack
from agave.codec.flow import CachedFlow, by_pixel
from agave.codec.latents import LatentCoder, NotFinite
from agave.models.layers import folded
from agave.models.vae_iaf import RESIDUAL_SCALE, VAEIAF, AutoregressiveNet
from agave.random_numbers import POSTERIOR, KeyedNumbers, StepNumbers


def as_tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def random_stack(bits, seed=0):
    return Stack(np.random.default_rng(seed).integers(0, 65536, bits // 16 + 1).tolist(), LOWEST + 12345)


@pytest.mark.parametrize(("latent", "hidden"), [(4, 8), (4, 4), (6, 3)])
def test_the_flow_value_by_value_is_the_flow_at_once(latent, hidden):
    flow, numbers = AutoregressiveNet(latent, hidden).double(), StepNumbers(0)
    for layer in (flow.h0, flow.h1, flow.mean, flow.log_deviation):
        torch.nn.init.normal_(layer.gain)
        torch.nn.init.normal_(layer.bias)
    like = torch.zeros((), dtype=torch.float64)
    z0, context = numbers.normal(0, (3, latent, 5, 7), like), numbers.normal(0, (3, hidden, 5, 7), like)
    with torch.no_grad():
        at_once = [by_pixel(one) for one in flow(z0, context)]
    asked, values = np.zeros(at_once[0].shape, int), by_pixel(z0)

    def known(front, mean, log_deviation):
        assert mean == pytest.approx(front.of(at_once[0]), abs=1e-12) and log_deviation == pytest.approx(front.of(at_once[1]), abs=1e-12)
        front.set(asked, front.of(asked) + 1)
        return front.of(values)

    CachedFlow(flow, context).run(known)
    assert (asked == 1).all()


def top_down_in_one_piece(layer, h, below, noise):
    """One step of inference as the equations read, without the parts that coding needs."""
    sizes = [layer.latent] * 4 + [layer.hidden] * 2
    elu = torch.nn.functional.elu
    prior_mean, prior_log_deviation, mean, log_deviation, context, d = layer.down_in(elu(h)).split(sizes, dim=1)
    mean, log_deviation = mean + below.mean, log_deviation + below.log_deviation
    z0 = mean + torch.exp(log_deviation) * noise
    flow_mean, flow_log_deviation = layer.flow(z0, context + below.context)
    z = (z0 - flow_mean) * torch.exp(-flow_log_deviation)
    log_posterior = -log_deviation - 0.5 * noise.square() + flow_log_deviation
    log_prior = -prior_log_deviation - 0.5 * ((z - prior_mean) * torch.exp(-prior_log_deviation)).square()
    d = layer.down_out(elu(torch.cat((z, d), dim=1)))
    if layer.halve:
        h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return h + RESIDUAL_SCALE * d, (log_posterior - log_prior).sum((2, 3))


def test_a_layer_in_parts_is_the_layer_in_one_piece():
    vae, x = VAEIAF(SIZE, SIZE, 2, 1, 8, 4).double(), as_tensor(images(3))
    vae.initialise(x, x)
    with torch.no_grad():
        encodings, noise = vae.encode(x), vae.latent_noise(3, StepNumbers(0))
        mean, kl_maps = vae.decode(encodings, noise)
        h, found = vae.start(3), []
        for index, layer in enumerate(reversed(vae.layers)):
            h, kl = top_down_in_one_piece(layer, h, encodings[-1 - index], noise[index])
            found.append(kl)
    assert torch.allclose(torch.cat(found, 1), kl_maps, rtol=1e-12) and torch.allclose(vae.finish(h), mean, rtol=1e-13)


SHAPES = {"plain": {}, "two layers": {"blocks": 2}, "two scales": {"depth": 2}}


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("left_out", [False, True])
@torch.inference_mode()
def test_every_bit_comes_back_and_the_kl_is_paid(sizes, left_out):
    vae, count = trained("vae_iaf", **SHAPES[sizes]).vae, 12
    x = as_tensor(images(count))
    with folded(vae):
        coder = LatentCoder(vae, 8)
        if left_out:
            coder.coded[:, 1::2] = False
        stack = random_stack(coder.bits_needed * count)
        before = stack.copy()
        sent = coder.pop_posterior(stack, x, range(count), 0)
        coder.push_prior(stack, sent.bins)
        paid = 16 * (len(stack.words) - len(before.words)) + math.log2(stack.state / before.state)
        assert paid == pytest.approx(sent.lengths.sum(), abs=2)
        received, mean = coder.pop_prior(stack, range(count))
        assert torch.equal(mean, sent.mean) and all((one.bins == bins).all() for one, bins in zip(received, sent.bins, strict=True))
        coder.push_posterior(stack, x, received, 0)
        assert stack == before
        if not left_out:
            _, kl_maps = vae.decode(vae.encode(x), vae.latent_noise(count, KeyedNumbers(0, POSTERIOR, range(count))))
            bits = kl_maps.sum(1).numpy() / math.log(2)
            difference = sent.lengths - bits
            assert abs(difference.mean()) < 4 * difference.std() / count**0.5 + 0.01 * bits.mean()


@torch.inference_mode()
def test_z_has_the_moments_of_the_posterior():
    """Of z0: mean and deviation before the flow, whose noise is standard normal."""
    vae, x = trained("vae_iaf").vae, as_tensor(images(16))
    coder = LatentCoder(vae, 8)
    sent = coder.pop_posterior(random_stack(coder.bits_needed * 16), x, range(16), 0)
    (layer,) = vae.layers
    own = layer.split(vae.start(16))
    posterior, z = layer.posterior(own, vae.encode(x)[0]), by_pixel(coder._z(sent.bins[0], own))
    noise = []

    def standardised(front, flow_mean, flow_log_deviation):
        z0 = front.of(z) * np.exp(flow_log_deviation) + flow_mean
        noise.append(((z0 - front.of(by_pixel(posterior.mean))) * np.exp(-front.of(by_pixel(posterior.log_deviation)))).ravel())
        return z0

    CachedFlow(layer.flow, posterior.context).run(standardised)
    drawn = np.concatenate(noise)
    assert abs(drawn.mean()) < 4 / len(drawn) ** 0.5 and drawn.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("gain", "settles"), [(1.5, True), (6.0, False)])
@torch.inference_mode()
def test_a_flow_that_amplifies_is_undone_or_refused(gain, settles):
    x, vae = as_tensor(images(4)), VAEIAF(SIZE, SIZE, 1, 1, 8, 4).double()
    vae.initialise(x, x)
    for layer in (vae.layers[0].flow.mean, vae.layers[0].flow.log_deviation):
        layer.gain += gain
    coder = LatentCoder(vae, 6)
    stack = random_stack(coder.bits_needed * 4 * 4)
    before = stack.copy()
    if not settles:
        with pytest.raises(NotFinite):
            coder.pop_posterior(stack, x, range(4), 0)
        return
    sent = coder.pop_posterior(stack, x, range(4), 0)
    coder.push_prior(stack, sent.bins)
    received, _ = coder.pop_prior(stack, range(4))
    coder.push_posterior(stack, x, received, 0)
    assert stack == before


@torch.inference_mode()
def test_the_need_is_enough_and_too_few_bits_are_noticed():
    vae, x = trained("vae_iaf").vae, as_tensor(images(6))
    coder = LatentCoder(vae, 6)
    assert len(random_stack(coder.bits_needed * 6).words) * 16 < 1.1 * coder.bits_needed * 6
    coder.pop_posterior(random_stack(coder.bits_needed * 6), x, range(6), 0)
    with pytest.raises(Exhausted):
        coder.pop_posterior(random_stack(coder.bits_needed), x, range(6), 0)
