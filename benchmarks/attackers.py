"""Who attacks in `strength`: tfadv on the Keras model, the others on the same network in PyTorch.

Each has `attacks`, the names it knows, and `attack(name, eps, steps, queries, n)`: adversarial images
(n, H, W, C) of the first n images, float32, at most eps away in L-infinity.  `steps` are those of the
gradient attacks, `queries` those of Square.
"""

import os

import numpy as np

TARGETS = 9
SHORT, AUTO = ("pgd", "mifgsm"), ("apgd-ce", "apgd-t", "fab", "square", "autoattack")


class Tfadv:
    """tfadv itself."""

    package, attacks = "tfadv", SHORT + AUTO

    def __init__(self, name, model, x, y, batch_size, seed):
        self.model, self.x, self.y, self.batch_size, self.seed = model, x, y, batch_size, seed

    def right(self, x):
        """bool (N,), of images (N, H, W, C)."""
        return np.argmax(self.model.predict(x, batch_size=self.batch_size, verbose=0), axis=1) == self.y

    def attack(self, name, eps, steps, queries, n):
        from tfadv import attacks

        x, y = self.x[:n], self.y[:n]
        if name in AUTO:
            only = {} if name == "autoattack" else {"attacks": [name]}
            settings = dict(steps=steps, queries=queries, targets=TARGETS, batch_size=self.batch_size, seed=self.seed)
            return attacks.autoattack(self.model, x, y, eps, **only, **settings)
        attack, parts = attacks.get(name), (slice(i, i + self.batch_size) for i in range(0, n, self.batch_size))
        made = [attack(self.model, x[part], y[part], eps, steps=steps, seed=self.seed) for part in parts]
        return np.concatenate(made)


class _Torch:
    """The same network in PyTorch, in the memory layout that is fastest on a CPU."""

    def __init__(self, name, model, x, y, batch_size, seed):
        import torch

        from benchmarks import torch_resnet

        torch.set_num_threads(os.cpu_count())
        weights = {v.path: v.numpy() for v in model.weights}
        self.model = torch_resnet.build(name, x.shape[1:], model.output_shape[-1], weights).eval()
        self.x = self._images(x)
        self.y, self.batch_size, self.seed = torch.tensor(y), batch_size, seed
        self.classes = self.model.logits.out_features

    @staticmethod
    def _images(x):
        import torch

        return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)

    def by_batches(self, attack, n):
        """`attack` of images and labels, a batch at a time; the images come back as (n, H, W, C)."""
        import torch

        torch.manual_seed(self.seed)
        batches = zip(self.x[:n].split(self.batch_size), self.y[:n].split(self.batch_size))
        return torch.cat([attack(x, y) for x, y in batches]).detach().numpy().transpose(0, 2, 3, 1)

    def right(self, x):
        """bool (N,), of images (N, H, W, C)."""
        import torch

        with torch.no_grad():
            found = [self.model(part).argmax(1) for part in self._images(x).split(self.batch_size)]
        return torch.cat(found).eq(self.y).numpy()


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

    package, attacks = "autoattack", AUTO

    def attack(self, name, eps, steps, queries, n):
        from autoattack import AutoAttack

        common = dict(norm="Linf", version="standard", device="cpu", verbose=False)
        run = AutoAttack(self.attacked, eps=eps, seed=self.seed, **common)
        for part in (run.apgd, run.apgd_targeted, run.fab):
            part.n_iter = part.n_iter_orig = steps
        run.square.n_queries = queries
        if name != "autoattack":
            run.attacks_to_run = ["fab-t" if name == "fab" else name]
        made = run.run_standard_evaluation(self.x[:n], self.y[:n], bs=self.batch_size)
        return made.numpy().transpose(0, 2, 3, 1)


class Torchattacks(_Torch):
    """https://github.com/Harry24k/adversarial-attacks-pytorch; its AutoAttack always goes all steps and queries."""

    package, attacks = "torchattacks", SHORT + AUTO

    def attack(self, name, eps, steps, queries, n):
        import torchattacks

        classes, once = self.classes, dict(eps=eps, n_restarts=1, seed=self.seed)
        make = {
            "pgd": lambda m: torchattacks.PGD(m, eps=eps, alpha=eps / 4, steps=steps),
            "mifgsm": lambda m: torchattacks.MIFGSM(m, eps=eps, alpha=eps / steps, steps=steps),
            "apgd-ce": lambda m: torchattacks.APGD(m, steps=steps, loss="ce", **once),
            "apgd-t": lambda m: torchattacks.APGDT(m, steps=steps, n_classes=classes, **once),
            "fab": lambda m: torchattacks.FAB(m, steps=steps, multi_targeted=True, n_classes=classes, **once),
            "square": lambda m: torchattacks.Square(m, n_queries=queries, **once),
            "autoattack": lambda m: torchattacks.AutoAttack(m, eps=eps, n_classes=classes, seed=self.seed),
        }[name]
        return self.by_batches(lambda x, y: make(self.model)(x, y), n)


class Foolbox(_Contiguous):
    """https://github.com/bethgelab/foolbox."""

    package, attacks = "foolbox", SHORT

    def attack(self, name, eps, steps, queries, n):
        import foolbox
        from foolbox.attacks.mi_fgsm import LinfMomentumIterativeFastGradientMethod as MIFGSM

        if name == "pgd":
            attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=steps)
        else:
            attack = MIFGSM(abs_stepsize=eps / steps, steps=steps)
        model = foolbox.PyTorchModel(self.attacked, bounds=(0, 1), device="cpu")
        return self.by_batches(lambda x, y: attack(model, x, y, epsilons=eps)[1], n)


class Art(_Contiguous):
    """https://github.com/Trusted-AI/adversarial-robustness-toolbox."""

    package, attacks = "art", SHORT

    def attack(self, name, eps, steps, queries, n):
        import torch
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        settings = dict(eps=eps, max_iter=steps, batch_size=self.batch_size, verbose=False)
        classifier = PyTorchClassifier(
            self.attacked,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(self.x.shape[1:]),
            nb_classes=self.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        if name == "pgd":
            attack = evasion.ProjectedGradientDescent(classifier, eps_step=eps / 4, num_random_init=1, **settings)
        else:
            attack = evasion.MomentumIterativeMethod(classifier, eps_step=eps / steps, **settings)
        np.random.seed(self.seed)
        return attack.generate(self.x[:n].numpy(), self.y[:n].numpy()).transpose(0, 2, 3, 1)


ATTACKERS = {"tfadv": Tfadv, "auto-attack": AutoAttack, "torchattacks": Torchattacks, "foolbox": Foolbox, "art": Art}
