"A network that learnt with torch-geometric and numba computes the same without them; the device room computes what the pipeline computes."
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from spectramind.core.errors import UsageError
from spectramind.network.spectramind import AIRS, FGS1, NetworkConfig, build_network, example_batch
from spectramind.pipeline import device as D, parity as P
from spectramind.training.checkpoints import write_weights

SIZES = dict(channels=6, node_features=5, planet_features=4)
CHILD = """
import sys
import numpy as np, torch
from spectramind.core.logs import setup_logging
from spectramind.network.spectramind import AIRS, FGS1, NetworkConfig, build_network
from spectramind.training.checkpoints import load_weights
folder, scan, graph = sys.argv[1:]
setup_logging(folder)
network = build_network(NetworkConfig(fgs1=FGS1(backend=scan), airs=AIRS(backend=graph)), 6, 5, 4).eval()
load_weights(network, folder)
given = np.load(folder + '/batch.npz')
batch = {name: torch.from_numpy(given[name]) for name in given.files}
with torch.no_grad(): out = network(batch)
np.savez(folder + '/out.npz', mu=out['mu'], sigma=out['sigma'])
print(network.airs.backend, sorted({'numba', 'torch_geometric', 'mamba_ssm'} & {name for name, module in sys.modules.items() if module is not None}))
"""


def network_of(scan, graph): return build_network(NetworkConfig(fgs1=FGS1(backend=scan), airs=AIRS(backend=graph)), **SIZES).eval()


def batch_of(planets=3, steps=50):
    random = torch.Generator().manual_seed(3)
    batch = example_batch(**SIZES, planets=planets, steps=steps)
    for name in ("series", "nodes", "planet"): batch[name] = torch.randn(batch[name].shape, generator=random)
    batch["series_valid"][0, 30:] = False
    return batch


def test_a_checkpoint_of_one_is_a_checkpoint_of_the_other(tmp_path):
    "Weights from PyG's layers and numba's scan, in a process that has neither and was asked for mamba_ssm: the same spectra."
    network = network_of("numba", "pyg")
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in network.parameters(): weight += .05*torch.randn(weight.shape, generator=random)
    assert type(network.airs.convs[0]).__module__.startswith("torch_geometric.")
    batch = batch_of()
    with torch.no_grad(): wanted = network(batch)
    write_weights(tmp_path, network.state_dict(), dict(scan="numba", graph="pyg"))
    np.savez(tmp_path/"batch.npz", **{name: x.numpy() for name, x in batch.items()})
    found = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), "mamba_ssm", "pyg"], capture_output=True, text=True,
                           env=os.environ | dict(SPECTRAMIND_WITHOUT="numba,torch_geometric,mamba_ssm", SPECTRAMIND_QUIET="1"), timeout=200)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.split(" ", 1) == ["dense", "[]\n"]
    out = np.load(tmp_path/"out.npz")
    assert np.abs(wanted["mu"].numpy() - 120).max() > .05 and np.abs(wanted["sigma"].numpy() - 1).max() > .05       # the network says something
    assert np.abs(out["mu"] - wanted["mu"].numpy()).max() < 1e-4 and np.abs(out["sigma"] - wanted["sigma"].numpy()).max() < 1e-5
    log = (tmp_path/"logs"/"spectramind.log").read_text()
    assert log.count("dense is used instead") == 1 and log.count("torch is used instead") == 1


def test_state_dicts_have_equal_names():
    ours, theirs = (network_of("torch", graph) for graph in ("dense", "pyg"))
    assert {name: x.shape for name, x in ours.state_dict().items()} == {name: x.shape for name, x in theirs.state_dict().items()}


# the device room, on the processor

def test_device_report_on_the_processor():
    rows = D.device_report("cpu")
    assert [row["name"] for row in rows] == ["detector chain", "fit, linear step", "network, forward"] and all(row["ok"] and row["seconds"] > 0 and row["cpu_seconds"] > 0 for row in rows)
    assert rows[2]["difference"] > 0                                        # single beside double precision


@pytest.mark.parametrize("what, changed", [("calibrate_torch", lambda true: lambda *a: true(*a)*(1 + 1e-4)), ("solve_torch", lambda true: lambda *a: tuple(p + 1e-6 for p in true(*a))),
                                           ("calibrate_torch", lambda true: lambda *a: true(*a)*float("nan"))], ids=["detector", "fit", "nan"])
def test_a_device_that_computes_something_else_is_found(monkeypatch, what, changed):
    monkeypatch.setattr(D, what, changed(getattr(D, what)))
    assert [row["ok"] for row in D.device_report("cpu")] == [what != "calibrate_torch", what != "solve_torch", True]


LOOKS = ("detector_parity", "photometry_parity", "transit_parity", "twin_parity", "scan_parity", "graph_parity")


def test_without_a_card_nothing_is_measured(monkeypatch):
    for name in LOOKS: monkeypatch.setattr(P, name, lambda **more: [("x", 0., 1.)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device: not measured"): D.device_report("cuda")
    assert [row["device"] for row in P.parity(cuda=True)] == ["cpu"]*6


def test_with_a_card_its_report_is_part_of_parity(monkeypatch):
    row = dict(name="detector chain", device="cuda", ok=True, difference=1e-9, limit=1e-6, detail="", seconds=.001, cpu_seconds=.02)
    for name in LOOKS: monkeypatch.setattr(P, name, lambda **more: [("x", 0., 1.)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(P, "device_report", lambda device: [row])
    assert P.parity(cuda=True)[-1] == row and "1 ms, 20 ms on the processor" in P.tell_parity(row)
    def broken(device): raise RuntimeError("CUDA error: no kernel image is available")
    monkeypatch.setattr(P, "device_report", broken)
    last = P.parity(cuda=True)[-1]
    assert not last["ok"] and "no kernel image" in last["detail"]


def test_the_torch_chain_takes_all_counts():
    raw = np.array([[0, 65535, 32767, 32768]], np.uint16)
    poly = np.array([[0., 2., 0, 0, 0, 0]])
    assert D.calibrate_torch(raw, poly, np.zeros(1), np.ones(1)).tolist() == [[131070., 2.]]
