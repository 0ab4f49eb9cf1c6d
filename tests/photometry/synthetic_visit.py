"""A small, independent scene for photometry tests: pixel-integrated images, jitter, intra-pixel response, foreground, drift, dead pixels.
It shares no code with the package under test and knows nothing of its templates."""
import numpy as np
from numba import njit

from spectramind.core.nouns import Frames
from spectramind.detector.compact import CompactBad, CompactVariance

READ = 13*np.sqrt(2.)
BLOBS = ((0., 0., .50, 1.15), (1.6, -1.5, .27, 1.1), (-1.3, 1.9, .16, 1.4), (.3, .2, .07, 5.))


@njit(cache=True)
def _axis(size, centre, width, response, out):
    "Light of a Gaussian per pixel along one axis: 5-point quadrature of each pixel with a response that falls to its rim."
    for i in range(size):
        total = 0.
        for k in range(5):
            u = (k - 2)/5.
            total += (1 - response*(4*u*u - .32))*np.exp(-.5*((i + u - centre)/width)**2)
        out[i] = total/5/(width*np.sqrt(2*np.pi))


@njit(cache=True)
def star_images(shift, light, centre, blobs, response, cube):
    "cube (row, column, time) += light(t) * image shifted by shift(t)."
    rows, columns = np.empty(cube.shape[0]), np.empty(cube.shape[1])
    for t in range(cube.shape[2]):
        for b in range(blobs.shape[0]):
            _axis(cube.shape[0], centre[0] + blobs[b, 0] + shift[0, t], blobs[b, 3], response, rows)
            _axis(cube.shape[1], centre[1] + blobs[b, 1] + shift[1, t], blobs[b, 3], response, columns)
            for i in range(cube.shape[0]):
                for j in range(cube.shape[1]): cube[i, j, t] += light[t]*blobs[b, 2]*rows[i]*columns[j]


@njit(cache=True)
def slit_images(shift, light, centre, width, response, cube):
    "cube (spatial, wave, time) += light(wave, time) * (core + wings) shifted by shift(t)."
    line, wing = np.empty(cube.shape[0]), np.empty(cube.shape[0])
    for t in range(cube.shape[2]):
        for w in range(cube.shape[1]):
            _axis(cube.shape[0], centre[w] + shift[t], width[w], response, line)
            _axis(cube.shape[0], centre[w] + shift[t], 4*width[w], response, wing)
            for i in range(cube.shape[0]): cube[i, w, t] += light[w, t]*(.93*line[i] + .06*wing[i] + .01/32)


def transit(time_h, depth, t0_h=3.75, half_h=1.6, ingress_h=.25, darkening=.25):
    "A smooth limb-darkened-looking dip; depth (...,) at mid-transit with the same shape for all."
    distance = np.abs(time_h - t0_h)
    edge = np.clip((half_h + ingress_h/2 - distance)/ingress_h, 0, 1)
    edge = edge*edge*(3 - 2*edge)
    shape = edge*(1 + darkening*(np.sqrt(np.clip(1 - (distance/(half_h + ingress_h))**2, 0, 1)) - 1))
    return 1 - np.multiply.outer(np.asarray(depth), shape)


def jitter(rng, n, sigma, correlation=.4, slow=0.):
    "First-order autoregressive pointing noise and a slow wander."
    from scipy.signal import lfilter
    fast = lfilter([np.sqrt(1 - correlation**2)], [1, -correlation], rng.normal(0, sigma, n))
    return fast + slow*np.sin(np.linspace(0, 9, n) + rng.uniform(0, 6))


def make_visit(seed=1, n_airs=281, n_fgs1=2700, waves=282, depth=.015, fgs1_depth=None, noise=True, coadds=(1, 1), foreground=(3., 3.),
               dead=True, dead_core=False, response=.05, drift=5e-4, jitter_px=(.1, .013), slow=.05, cosmics=True, light=1., pixel_major=True, burst=0.):
    "Two `Frames` and the truth. `coadds` divides photon, read and jitter variance (FGS1, AIRS)."
    rng = np.random.default_rng(seed)
    wavelength = np.linspace(1.95, 3.9, waves)
    time_a, time_f = (np.arange(n_airs) + .5)*7.5/n_airs, (np.arange(n_fgs1) + .5)*7.5/n_fgs1
    star = light*282/waves*1.45e5*np.exp(-(wavelength - 2.1)/.75)
    curve = lambda t: 1 + drift*(t/7.5 - .4) + .6*drift*(t/7.5)**2
    depths = np.broadcast_to(depth, waves)
    lights = star[:, None]*transit(time_a, depths)*curve(time_a)
    flux_f = light*2.3e5*transit(time_f, depths.mean() if fgs1_depth is None else fgs1_depth)*curve(time_f)
    veil = foreground[1]*(1 + .3*(wavelength - 3))
    width, centre = np.linspace(1.1, 2., waves), np.linspace(15.4, 15.8, waves)

    shift_f = np.stack([jitter(rng, n_fgs1, jitter_px[0]/np.sqrt(coadds[0]), slow=slow), jitter(rng, n_fgs1, jitter_px[0]/np.sqrt(coadds[0]), slow=-slow)])
    shift_a = jitter(rng, n_airs, jitter_px[1]/np.sqrt(coadds[1]), slow=.1*slow)
    if burst:  # twenty minutes of much larger motion, in the middle of the transit
        for shift, time in [(shift_f, time_f), (shift_a, time_a)]: shift[..., abs(time - 3.5) < 1/6] *= burst
    out = []
    for name, shape, n, m in [('FGS1', (32, 32), n_fgs1, coadds[0]), ('AIRS-CH0', (32, waves), n_airs, coadds[1])]:
        cube = np.zeros((*shape, n), np.float32)
        if name == 'FGS1':
            star_images(shift_f, flux_f, np.array([15.36, 15.32]), np.array(BLOBS), response, cube)
            cube += (foreground[0]*curve(time_f)).astype(np.float32)
        else:
            slit_images(shift_a, lights, centre, width, response, cube)
            cube += (veil[:, None]*curve(time_a)).astype(np.float32)
        intercept, slope = np.full(shape, READ**2/m), np.full(shape, 1/m)
        if noise:
            for line in cube:
                draw = rng.standard_normal(line.shape, dtype=np.float32)
                line += draw*np.sqrt(np.maximum(line, 0)/np.float32(m) + np.float32(READ**2/m))
        bad = np.zeros(shape, bool)
        if dead: bad[rng.integers(0, 32, max(3, bad.size//900)), rng.integers(0, shape[1], max(3, bad.size//900))] = True
        if dead_core:
            if name == 'FGS1': bad[15, 15] = True
            else: bad[16, ::25] = True
        elif name == 'FGS1': bad[10:22, 10:22] = False
        cube[bad] = 0
        hits = np.array([[int(rng.integers(0, k)) for k in (n, 32, shape[1])] for _ in range(12 if cosmics else 0)]).reshape(-1, 3)
        for t, i, j in hits: cube[i, j, t] += 8e4
        frames, flags = np.moveaxis(cube, -1, 0), CompactBad(n, bad, hits)
        if not pixel_major: frames, flags = np.ascontiguousarray(frames), np.asarray(flags)
        variance = CompactVariance(frames, intercept, slope, np.zeros((0, 3), np.int64))
        time, exposure = (time_f, .1) if name == 'FGS1' else (time_a, 4.5)
        out.append(Frames(name, frames, variance, flags, time, np.full(n, exposure), np.array([]) if name == 'FGS1' else wavelength, {}))
    truth = dict(depths=depths, star=star, lights=lights, flux_fgs1=flux_f, shift_fgs1=shift_f, shift_airs=shift_a, foreground=veil, curve=curve, wavelength=wavelength)
    return out[0], out[1], truth


def box_depth(flux, variance, valid, time_h, t0_h=3.75, half_h=1.6, ingress_h=.25, darkening=.25):
    "Depth per column by least squares on the known shape with a quadratic drift, and its error."
    shape = 1 - transit(time_h, 1., t0_h, half_h, ingress_h, darkening)
    x = time_h/7.5 - .5
    depth, error = [], []
    for f, v, g in zip(np.atleast_2d(flux.T), np.atleast_2d(variance.T), np.atleast_2d(valid.T)):
        if not g.any():
            depth.append(np.nan); error.append(np.inf)
            continue
        base = np.stack([np.ones_like(x), x, x*x], 1)
        design = np.concatenate([base, -base[:, :1]*shape[:, None]], 1)
        w = 1/np.sqrt(v[g])
        coef = np.linalg.lstsq(design[g]*w[:, None], f[g]*w, rcond=None)[0]
        cov = np.linalg.inv((design[g]*w[:, None]).T @ (design[g]*w[:, None]))
        middle = coef[0] + coef[1]*(t0_h/7.5 - .5) + coef[2]*(t0_h/7.5 - .5)**2
        depth.append(coef[3]/middle)
        error.append(np.sqrt(cov[3, 3])/middle)
    return np.array(depth), np.array(error)
