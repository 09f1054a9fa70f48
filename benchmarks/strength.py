"""How strong and how fast tfadv's attacks are beside the references, on the trained models of a work folder.

python -m benchmarks.strength --workdir=runs/cifar10 --data_dir=data --images=1000

Each model is carried over into PyTorch, where auto-attack (the reference of
APGD, FAB, Square and AutoAttack), torchattacks, Foolbox and ART run at the same
settings: PGD of 20 steps of eps / 4 from a random start; MI-FGSM of 10 steps of
eps / 10; APGD, targeted APGD and FAB of 100 steps; Square of 5,000 queries; 9
targets.  A robust accuracy counts the images that are right unattacked and under
attack.  The seconds are of a whole attack on all images, after a first call on
few images and few steps that builds what is built once.

The peers come with `pip install -e '.[bench]'` and
`pip install git+https://github.com/fra31/auto-attack`; one that is absent is left out.
Rows land in <out>/strength.jsonl and <out>/strength.md as they come; the same
command goes on after the last one.
"""

import importlib.util
import json
import os
import pathlib
import time

import tfadv  # noqa: F401  before TensorFlow: switches oneDNN on

import keras
import numpy as np
from absl import app, flags

_WORKDIR = flags.DEFINE_string("workdir", "runs/cifar10", "Work folder with models/ and split/division.json.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Home of the TFDS data sets.")
_OUT = flags.DEFINE_string("out", "runs/strength", "Folder for strength.jsonl and strength.md.")
_IMAGES = flags.DEFINE_integer("images", 1000, "How many test images, the first ones.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", "resnet18", "Network.")
_VARIANTS = flags.DEFINE_list("variants", ["baseline", "retrained"], "Variants of the network.")
_EPS = flags.DEFINE_list("eps", ["0.01", "0.03"], "Radii in L-infinity.")
_ATTACKS = flags.DEFINE_list(
    "attacks", ["pgd", "mifgsm", "apgd-ce", "apgd-t", "fab", "square", "autoattack"], "Attacks."
)
_CONTENDERS = flags.DEFINE_list(
    "contenders", ["tfadv", "auto-attack", "torchattacks", "foolbox", "art"], "Who attacks."
)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Images at once.", lower_bound=1)

STEPS, QUERIES, TARGETS = 100, 5000, 9
# attacks of fewer steps than STEPS
FEWER = {"pgd": 20, "mifgsm": 10}


class Tfadv:
    """tfadv itself, on the Keras model."""

    def __init__(self, name, model, x, y):
        self.model, self.x, self.y = model, x, y

    def right(self, x):
        """bool (N,)."""
        return np.argmax(self.model.predict(x, batch_size=_BATCH.value, verbose=0), axis=1) == self.y

    def attack(self, name, eps, steps, queries, n):
        from tfadv import attacks

        x, y, batch = self.x[:n], self.y[:n], dict(batch_size=_BATCH.value)
        if name == "autoattack":
            return attacks.autoattack(self.model, x, y, eps, steps=steps, queries=queries, targets=TARGETS, **batch)
        if name in ("apgd-ce", "apgd-t", "fab", "square"):
            return attacks.autoattack(self.model, x, y, eps, attacks=[name], steps=steps, queries=queries, **batch)
        parts = (slice(i, i + _BATCH.value) for i in range(0, n, _BATCH.value))
        attack, steps = attacks.get(name), min(steps, FEWER[name])
        return np.concatenate([attack(self.model, x[part], y[part], eps, steps=steps) for part in parts])


class _Torch:
    """The same network in PyTorch, in the memory layout that is fastest on a CPU."""

    def __init__(self, name, model, x, y):
        import torch

        from benchmarks import torch_resnet

        torch.set_num_threads(os.cpu_count())
        weights = {v.path: v.numpy() for v in model.weights}
        self.model = torch_resnet.build(name, x.shape[1:], model.output_shape[-1], weights).eval()
        self.x = torch.tensor(x.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)
        self.y = torch.tensor(y)

    def batches(self, n):
        """The first n images and labels, a batch at a time."""
        return zip(self.x[:n].split(_BATCH.value), self.y[:n].split(_BATCH.value))

    def right(self, x):
        """bool (N,) of images (N, H, W, C)."""
        import torch

        x = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)
        with torch.no_grad():
            return torch.cat([self.model(part).argmax(1) for part in x.split(_BATCH.value)]).eq(self.y).numpy()


class _Contiguous(_Torch):
    """For peers that look at gradients with `view`, which the faster layout forbids: the model alone has it."""

    def __init__(self, *args):
        import torch

        super().__init__(*args)

        class ChannelsLast(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.contiguous(memory_format=torch.channels_last)

            @staticmethod
            def backward(ctx, grad):
                return grad.contiguous()

        class Attacked(torch.nn.Module):
            def forward(_, x):
                return self.model(ChannelsLast.apply(x))

        self.attacked = Attacked().eval()
        self.x = self.x.contiguous()


class AutoAttack(_Contiguous):
    """https://github.com/fra31/auto-attack."""

    package = "autoattack"

    def attack(self, name, eps, steps, queries, n):
        from autoattack import AutoAttack

        if name in FEWER:
            return None
        run = AutoAttack(self.attacked, norm="Linf", eps=eps, version="standard", device="cpu", verbose=False, seed=0)
        for part in (run.apgd, run.apgd_targeted, run.fab):
            part.n_iter = part.n_iter_orig = steps
        run.square.n_queries = queries
        if name != "autoattack":
            run.attacks_to_run = ["fab-t" if name == "fab" else name]
        made = run.run_standard_evaluation(self.x[:n], self.y[:n], bs=_BATCH.value)
        return made.numpy().transpose(0, 2, 3, 1)


class Torchattacks(_Torch):
    """https://github.com/Harry24k/adversarial-attacks-pytorch."""

    package = "torchattacks"

    def attack(self, name, eps, steps, queries, n):
        import torch
        import torchattacks

        classes = self.model.logits.out_features
        make = {
            "pgd": lambda: torchattacks.PGD(self.model, eps=eps, alpha=eps / 4, steps=min(steps, FEWER["pgd"])),
            "mifgsm": lambda: torchattacks.MIFGSM(
                self.model, eps=eps, alpha=eps / FEWER["mifgsm"], steps=min(steps, FEWER["mifgsm"])
            ),
            "apgd-ce": lambda: torchattacks.APGD(self.model, eps=eps, steps=steps, n_restarts=1, loss="ce"),
            "apgd-t": lambda: torchattacks.APGDT(self.model, eps=eps, steps=steps, n_restarts=1, n_classes=classes),
            "fab": lambda: torchattacks.FAB(
                self.model, eps=eps, steps=steps, n_restarts=1, multi_targeted=True, n_classes=classes
            ),
            "square": lambda: torchattacks.Square(self.model, eps=eps, n_queries=queries, n_restarts=1),
            "autoattack": lambda: torchattacks.AutoAttack(self.model, eps=eps, n_classes=classes),
        }[name]
        torch.manual_seed(0)
        made = [make()(x, y) for x, y in self.batches(n)]
        return torch.cat(made).detach().numpy().transpose(0, 2, 3, 1)


class Foolbox(_Contiguous):
    """https://github.com/bethgelab/foolbox."""

    package = "foolbox"

    def attack(self, name, eps, steps, queries, n):
        import foolbox
        import torch

        if name not in FEWER:
            return None
        steps = min(steps, FEWER[name])
        attack = {
            "pgd": lambda: foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=steps),
            "mifgsm": lambda: foolbox.attacks.mi_fgsm.LinfMomentumIterativeFastGradientMethod(
                abs_stepsize=eps / FEWER["mifgsm"], steps=steps
            ),
        }[name]()
        torch.manual_seed(0)
        model = foolbox.PyTorchModel(self.attacked, bounds=(0, 1), device="cpu")
        made = [attack(model, x, y, epsilons=eps)[1] for x, y in self.batches(n)]
        return torch.cat(made).detach().numpy().transpose(0, 2, 3, 1)


class Art(_Contiguous):
    """https://github.com/Trusted-AI/adversarial-robustness-toolbox."""

    package = "art"

    def attack(self, name, eps, steps, queries, n):
        import torch
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        if name not in FEWER:
            return None
        classifier = PyTorchClassifier(
            self.attacked,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(self.x.shape[1:]),
            nb_classes=self.model.logits.out_features,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        settings = dict(eps=eps, max_iter=min(steps, FEWER[name]), batch_size=_BATCH.value, verbose=False)
        attack = {
            "pgd": lambda: evasion.ProjectedGradientDescent(
                classifier, eps_step=eps / 4, num_random_init=1, **settings
            ),
            "mifgsm": lambda: evasion.MomentumIterativeMethod(classifier, eps_step=eps / FEWER["mifgsm"], **settings),
        }[name]()
        np.random.seed(0)
        return attack.generate(self.x[:n].numpy(), self.y[:n].numpy()).transpose(0, 2, 3, 1)


CONTENDERS = {"tfadv": Tfadv, "auto-attack": AutoAttack, "torchattacks": Torchattacks, "foolbox": Foolbox, "art": Art}


def test_images(workdir, data_dir, number):
    """(float32 (N, H, W, C), int64 (N,)): the first test images of a work folder."""
    from tfadv.datasets import sources

    division = json.loads((pathlib.Path(workdir) / "split" / "division.json").read_text())
    pool = sources.load(division["dataset"].split("/")[0], data_dir, 32)
    rows = np.asarray(division["test"])[:number]
    return (pool.images[rows] / np.float32(255)).astype(np.float32), pool.labels[rows]


def measure(contender, attack, eps, n, steps=STEPS, queries=QUERIES):
    """dict of the images made and the seconds it took; None where the contender has no such attack."""
    few = contender.attack(attack, eps, 2, 2, min(n, 8))
    if few is None:
        return None
    start = time.perf_counter()
    made = np.asarray(contender.attack(attack, eps, steps, queries, n))
    seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 2), "made": made}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value.")
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    x, y = test_images(_WORKDIR.value, _DATA_DIR.value, _IMAGES.value)
    there = _there(out)
    for variant in _VARIANTS.value:
        folder = pathlib.Path(_WORKDIR.value) / "models" / _MODEL.value / variant
        model = keras.models.load_model(folder / "model.keras", compile=False)
        contenders = {}
        for name in _CONTENDERS.value:
            package = getattr(CONTENDERS[name], "package", None)
            if package and importlib.util.find_spec(package) is None:
                print(f"{name} is not installed, and left out.")
            else:
                contenders[name] = CONTENDERS[name](_MODEL.value, model, x, y)
        for eps in map(float, _EPS.value):
            for attack in _ATTACKS.value:
                for name, contender in contenders.items():
                    cell = {
                        "variant": variant,
                        "eps": eps,
                        "attack": attack,
                        "contender": name,
                        "images": len(y),
                    }
                    found = None if cell in there else measure(contender, attack, eps, len(y))
                    if found is None:
                        continue
                    made = found.pop("made")
                    clean = contender.right(x)
                    row = {
                        **cell,
                        "clean": round(100 * clean.mean(), 2),
                        "robust": round(100 * (clean & contender.right(made)).mean(), 2),
                        "farthest": round(float(np.abs(made - x).max()), 6),
                        **found,
                    }
                    _write(out, row)


def _there(out):
    """The cells of the table that an earlier call has measured."""
    file = out / "strength.jsonl"
    rows = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return [{key: row[key] for key in ("variant", "eps", "attack", "contender", "images")} for row in rows]


def _write(out, row):
    with open(out / "strength.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    table, new = out / "strength.md", not (out / "strength.md").exists()
    with open(table, "a") as file:
        if new:
            file.write(f"| {' | '.join(row)} |\n|{' --- |' * len(row)}\n")
        file.write(f"| {' | '.join(map(str, row.values()))} |\n")
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    app.run(main)
