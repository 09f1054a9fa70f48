"""What is measured: a function a section, each of which adds its rows to a `Bench`."""

import math
import os
import time

import numpy as np

from benchmarks.processes import Failed, by_turns

EPSILONS = (0.01, 0.02, 0.03)
PGD_EPS, PGD_STEPS = 0.03, 10
LEAST = 0.4  # seconds that a measurement of a short work takes
MOST_DIFFERENT = 1e-3  # share of pixels; beyond it two contenders have not done the same work


def fgsm(bench):
    """FGSM at three eps, everyone on the same network and images."""
    _attack_section(bench, "FGSM, 3 eps", "fgsm", {"epsilons": EPSILONS}, min(EPSILONS), 2)


def pgd(bench):
    """PGD of ten steps without a random start, likewise."""
    _attack_section(bench, "PGD-10", "pgd", {"eps": PGD_EPS, "steps": PGD_STEPS}, PGD_EPS / 4, 2 * PGD_STEPS)


def _attack_section(bench, *work):
    with bench.contenders(*bench.installed) as contenders:  # tfadv is the first of them
        for size, n in bench.sizes.items():
            for model in bench.models:
                bench.prepare(contenders, model, size, n)
                _attack_rows(bench, contenders, model, size, n, *work)


def _attack_rows(bench, contenders, model, size, n, work, method, arguments, least_step, passes):
    made, remarks = {}, {}
    for contender in contenders:
        try:
            made[contender.name] = contender.call(method, **arguments)[1]
        except Failed as error:
            remarks[contender.name] = str(error)
    for name, adversarial in made.items():
        different = float((np.abs(adversarial - made["tfadv"]) > least_step / 2).mean())
        if different > MOST_DIFFERENT:
            remarks[name] = f"void: {different:.2%} of the pixels differ from tfadv's"
    calls = {
        c.name: lambda c=c: c.call(method, wanted=False, least=LEAST, **arguments)[0]
        for c in contenders
        if c.name in made
    }
    timings = by_turns(calls, bench.repeats)
    for name in made:
        own = passes if name == "tfadv" else 0  # a peer may take more gradients for the same images
        bench.add(work, model, size, n, name, n, timings[name], passes=own, remark=remarks.get(name))
        if name != "tfadv" and name not in remarks:
            bench.add(work, model, size, n, "tfadv", n, timings["tfadv"], against=(name, timings[name], n))
    for name in remarks.keys() - made.keys():
        bench.keep({"work": work, "model": model, "size": size, "contender": name, "remark": remarks[name]})


def training(bench):
    """A step on a batch that stays in memory, and whole epochs through the real data path."""
    steps = 1 if bench.quick else 4
    size, n = next(iter(bench.sizes.items()))
    names = [name for name in ("tfadv", "torchattacks") if name in bench.installed]
    for model in bench.models:
        with bench.contenders(*names) as contenders:
            bench.prepare(contenders, model, size, n)
            for contender in contenders:
                contender.call("prepare_training")
            timings = by_turns(
                {c.name: lambda c=c: c.call("train", steps=steps)[0] for c in contenders}, 2 * bench.repeats
            )
            for name in names:
                bench.add("training step", model, size, n, name, steps * n, timings[name], passes=3)
            if len(names) == 2:
                against = (names[1], timings[names[1]], steps * n)
                bench.add("training step", model, size, n, names[0], steps * n, timings[names[0]], against=against)
            if model == bench.models[0]:
                batches = 2 if bench.quick else math.ceil(10 * steps / timings["tfadv"]["median"])  # ten seconds
                _epoch_rows(bench, contenders, model, size, n, batches)
            for contender in contenders:
                peak = contender.call("peak_memory")[1]
                bench.keep({"work": "peak memory, training", "model": model, "size": size, "batch": n,
                            "contender": contender.name, "bytes": peak})  # fmt: skip
    with bench.contenders("tfadv", "tfadv") as contenders:
        model, calls = bench.models[0], {}
        bench.prepare(contenders, model, size, n)
        for contender, precision in zip(contenders, ("float32", "mixed_bfloat16")):
            contender.call("prepare_training", precision=precision)
            calls[precision] = lambda c=contender: c.call("train", steps=steps)[0]
        timings = by_turns(calls, 2 * bench.repeats)
        exact, mixed = timings.values()
        against = ("float32", exact, steps * n)
        bench.add("step, mixed_bfloat16", model, size, n, "tfadv", steps * n, mixed, against=against)


def _epoch_rows(bench, contenders, model, size, n, batches):
    tfadv = contenders[0]
    for contender in contenders:
        contender.call("prepare_training", images=batches * n)
    calls = {c.name: lambda c=c: c.call("epochs", number=1, folder=bench.folder)[0] for c in contenders[1:]}
    calls |= {
        "tfadv": lambda: _epoch(tfadv, bench.folder),
        "own bare step": lambda: tfadv.call("train", steps=batches)[0],
    }
    timings = by_turns(calls, max(1, bench.repeats // 2 + 1))
    for name in calls:
        bench.add("epoch", model, size, n, name, batches * n, timings[name])
        if name != "tfadv":
            against = (name, timings[name], batches * n)
            bench.add("epoch", model, size, n, "tfadv", batches * n, timings["tfadv"], against=against)


def _epoch(tfadv, folder):
    """float > 0, seconds of an epoch of `Trainer.fit`: half of what three epochs take longer than one.

    So what a call costs once, whatever the number of epochs, is no part of it. Tiny epochs can be lost in noise: where
    three take no longer than one, it is a third of the three, with that cost in it; rather too slow than too fast.
    """
    once, thrice = (tfadv.call("epochs", number=k, folder=folder)[0] for k in (1, 3))
    return (thrice - once) / 2 if thrice > once else thrice / 3


def samples(bench):
    """Making the surrogate's samples, their size, and retraining on them."""
    model = bench.models[0]
    size, n = next(iter(bench.sizes.items()))
    count = 2 * n if bench.quick else 48 * n
    with bench.contenders("tfadv") as (tfadv,):
        bench.prepare([tfadv], model, size, n)
        source = tfadv.call("prepare_samples", n=count, data_dir=bench.data_dir)[1]
        timings = by_turns(
            {
                "own bare attack": lambda: tfadv.call("attack_samples")[0],
                "generate": lambda: tfadv.call("generate", folder=bench.folder)[0],
                "read": lambda: tfadv.call("read", wanted=False, folder=bench.folder, epsilons=EPSILONS)[0],
            },
            bench.repeats,
        )
        bare = timings["own bare attack"]
        bench.add("bare attack", model, size, n, "tfadv", count, bare)
        bench.add("generate", model, size, n, "tfadv", count, timings["generate"],
                  against=("own bare attack", bare, count))  # fmt: skip
        bench.add("read samples", model, size, n, "tfadv", count, timings["read"])
        stored = tfadv.call("generate", folder=bench.folder)[1] / count
        share = f"{source}: 1/{3 * 4 * 3 * size**2 / stored:.1f} of float32 copies at three eps"
        bench.keep({"work": "bytes of a sample", "size": size, "contender": "tfadv", "bytes": stored, "remark": share})
        tfadv.call("prepare_training", images=n)
        read = tfadv.call("read", wanted=False, folder=bench.folder, epsilons=EPSILONS)[0]
        tfadv.call("epochs", number=1, folder=bench.folder)
        seconds = read + _epoch(tfadv, bench.folder)
        timing = {"median": seconds, "least": seconds, "most": seconds}
        bench.add("retraining epoch, read from the TFRecords", model, size, n, "tfadv", 4 * count, timing)


def growth(bench):
    """How the cost grows with the number of eps, the size of image and batch, and the number of images."""
    model = bench.models[0]
    size, n = next(iter(bench.sizes.items()))
    sizes = [16, 32] if bench.quick else [32, 64, 128, 224]
    counts = [1, 3, 10]
    with bench.contenders("tfadv") as (tfadv,):
        bench.prepare([tfadv], model, size, n)
        epsilons = {e: tuple(np.linspace(0.01, 0.03, e).tolist()) for e in counts}
        calls = {e: lambda e=e: tfadv.call("fgsm", wanted=False, least=LEAST, epsilons=epsilons[e])[0] for e in counts}
        timings = by_turns(calls, 2 * bench.repeats)
        for e in counts:
            cost = timings[e]["median"] / timings[1]["median"]
            bench.add(f"FGSM, {e} eps", model, size, n, "tfadv", n, timings[e], cost=cost)
        for side in sizes:
            few = max(4, n * size**2 // side**2)
            bench.prepare([tfadv], model, side, few)
            timings = by_turns(
                {0: lambda: tfadv.call("fgsm", wanted=False, least=LEAST, epsilons=EPSILONS)[0]}, bench.repeats
            )
            bench.add("FGSM, size of image", model, side, few, "tfadv", few, timings[0], passes=2)
        for batch in (8, 16) if bench.quick else (1, 8, 32, 128, 512):
            bench.prepare([tfadv], model, size, batch)
            timings = by_turns(
                {0: lambda: tfadv.call("fgsm", wanted=False, least=LEAST, epsilons=EPSILONS)[0]}, bench.repeats
            )
            bench.add("FGSM, images of a batch", model, size, batch, "tfadv", batch, timings[0], passes=2)
        bench.prepare([tfadv], model, size, n)
        for batches in (1, 2) if bench.quick else (10, 20, 40):
            tfadv.call("prepare_training", images=batches * n)
            timing = by_turns({0: lambda: _epoch(tfadv, bench.folder)}, 1 if bench.quick else 3)[0]
            bench.add(
                "epoch, number of images", model, size, n, "tfadv", batches * n, timing, remark=f"{batches * n} images"
            )


def start(bench):
    """From nothing to the first attack and the first training step, tracing included."""
    model = bench.models[0]
    size, n = next(iter(bench.sizes.items()))
    with bench.contenders("tfadv") as (tfadv,):
        bench.prepare([tfadv], model, size, n)
    path = os.path.join(bench.folder, f"{model}-{size}.npz")
    for name in [name for name in ("tfadv", "torchattacks") if name in bench.installed]:
        begin = time.perf_counter()
        with bench.contenders(name) as (contender,):
            contender.call("prepare", model=model, size=size, n=n, weights=path)
            contender.call("fgsm", wanted=False, epsilons=EPSILONS)
            attacked = time.perf_counter() - begin
            contender.call("prepare_training", images=n)
            contender.call("train", steps=1)
            trained = time.perf_counter() - begin
        for work, seconds in (("start to first attack", attacked), ("start to first training step too", trained)):
            bench.keep({"work": work, "model": model, "size": size, "batch": n, "contender": name, "seconds": seconds})


SECTIONS = {"fgsm": fgsm, "pgd": pgd, "training": training, "samples": samples, "growth": growth, "start": start}
