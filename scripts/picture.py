"""The README's picture: one planet of a finished run, from raw frame to spectrum.

    python scripts/picture.py WORK DATA_ROOT TRUTH.csv [PLANET_ID]
"""
import sys
from pathlib import Path

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from spectramind.challenge.layout import Challenge, read_signal
from spectramind.challenge.planets import read_labels
from spectramind.challenge.wavelength import default_wavelengths
from spectramind.core.store import read_npz
from spectramind.pipeline.products import Workplace, posterior_from, read_predictions

work, root, truth = (Path(a) for a in sys.argv[1:4])
place, challenge = Workplace(work), Challenge(root)
found = read_predictions(place.predictions)
ids, depths = read_labels(truth.parent, truth.name)
depth = dict(zip(map(int, ids), depths))
if len(sys.argv) > 4: planet = int(sys.argv[4])
else:  # the liveliest spectrum among those that were measured well
    quality = [depth[int(i)][1:].std()/np.median(s) for i, s in zip(found.planet_id, found.sigma)]
    planet = int(found.planet_id[int(np.argmax(quality))])
row = int(np.flatnonzero(found.planet_id == planet)[0])
posterior = posterior_from(planet, read_npz(place.posterior(planet)))
raw = read_signal(root, "test", planet, "AIRS-CH0", 0, challenge.axes)[:, 1].reshape(32, 356)
um, mu, sigma = default_wavelengths(), 1e6*found.mu[row], 1e6*found.sigma[row]

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
fig, ax = plt.subplots(1, 3, figsize=(12, 3.1), layout="constrained", width_ratios=(1, 1, 1.5), dpi=110)
ax[0].imshow(raw, aspect="auto", vmax=np.percentile(raw, 99.3), cmap="cividis")
ax[0].set(title="one raw frame of AIRS-CH0", xlabel="detector column", ylabel="row")
for name, colour, label, shift in (("fgs1", "#d95f02", "FGS1 (shifted up by 0.004)", .004), ("airs", "#1b6ca8", "AIRS white light", 0.)):
    c = posterior.curves["visit_0"][name]
    n = max(1, len(c["time_h"])//130)
    bins = lambda x: np.asarray(x)[:len(x)//n*n].reshape(-1, n).mean(1)
    model = np.asarray(c["model"])
    outside = np.median(model[np.r_[:len(model)//12, -len(model)//12:0]])       # the ends of a visit lie outside the transit
    ax[1].plot(bins(c["time_h"]), bins(c["flux"])/outside + shift, ".", ms=3, color=colour)
    ax[1].plot(c["time_h"], model/outside + shift, "k", lw=.8)
    ax[1].annotate(label, (np.median(c["time_h"]), 1 + shift), xytext=(0, -2 if shift else -16), textcoords="offset points", ha="center", va="top", color=colour, fontsize=8)
ax[1].set(title="calibrated light curves and the joint fit", xlabel="time (h)", ylabel="flux over that outside the transit")
ax[2].fill_between(um[1:], (mu - 2*sigma)[1:], (mu + 2*sigma)[1:], color="#1b6ca8", alpha=.18, lw=0)
ax[2].fill_between(um[1:], (mu - sigma)[1:], (mu + sigma)[1:], color="#1b6ca8", alpha=.4, lw=0, label="1 and 2 sigma")
ax[2].plot(um[1:], mu[1:], color="#1b6ca8", lw=1, label="found")
ax[2].plot(um[1:], 1e6*depth[planet][1:], "k", lw=1, label="true")
ax[2].set(title="the spectrum, with honest error bars", xlabel="wavelength (µm)", ylabel="(Rp/Rs)² (ppm)"); ax[2].legend(frameon=False, fontsize=8)
out = Path(__file__).resolve().parents[1]/"nbs"/"images"/"first_light.png"
fig.savefig(out, metadata={"Software": None})
print(f"planet {planet}: {out.name}, {out.stat().st_size//1024} KB")
