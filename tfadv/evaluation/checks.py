"""Whether a robust accuracy can be believed: `judge` on what `masking.measure` has found.

Most rules are of one form: something that does not happen, or hardly ever, where gradients work happened on so many
of the images that the model gets right. A check is suspicious where the low end of that share's 95% Wilson interval is
above what is tolerated, so that few images prove little and a model is not suspected of their noise. Each attack
meets the same images, so what one broke and another did not is counted image by image; two accuracies side by side
would have the noise of both.

Passing all checks does not prove that a model is robust, only that no known sign of the contrary was found. After
Athalye et al. 2018 (https://arxiv.org/abs/1802.00420, section 3), Carlini et al. 2019
(https://arxiv.org/abs/1902.06705) and the flags of AutoAttack (https://github.com/fra31/auto-attack, flags_doc.md).
"""

import dataclasses

import numpy as np

from tfadv.evaluation.intervals import wilson

WHITE_BOX = ("fgsm", "pgd", "pgd-steps", "pgd-restarts", "apgd-ce", "apgd-t")
BLACK_BOX = ("square", "transfer")


@dataclasses.dataclass(frozen=True)
class Check:
    """What came of one rule.

    Attributes:
      name: str, a key of `RULES`.
      passed: bool, False is suspicious; None where it could not be measured.
      figures: dict of str → number: what it looked at, and the threshold.
      sentence: str, what was seen and what it means, for a person.
    """

    name: str
    passed: bool | None
    figures: dict
    sentence: str


def judge(facts):
    """Applies all rules.

    Args:
      facts: dict, as `masking.measure` returns it, or read back from JSON.

    Returns:
      list of `Check`, one for each of `RULES`, in that order.
    """
    return [Check(name, *_apply(rule, facts)) for name, rule in RULES.items()]


def _apply(rule, facts):
    if rule not in _OF_OUTPUTS:
        if facts["refused"]:
            return None, {}, "Not measured, because attacks refuse the model."
        if "1" not in facts["clean"]["right"]:
            return None, {}, "Not measured, because the model is right on none of the images, attacked or not."
    return rule(facts)


def _probabilities(facts):
    """Every output row is within [0, 1] and sums to 1: logits do not do that by chance.

    A softmax that the loss takes for logits, or a saturated one, flattens the gradient.
    """
    rows, n = facts["probability_rows"], facts["n"]
    passed = rows < n
    meaning = "as logits do not" if passed else "these are probabilities, which hide the gradient: attack the logits"
    return passed, {"rows": rows, "of": n}, f"{rows} of {n} outputs are within [0, 1] and sum to 1: {meaning}."


def _randomness(facts):
    """Two forward passes differ by more than 1e-4 of the outputs' L2 norm, as in AutoAttack's flag.

    float32 sums in another order differ by about 1e-6. A random model needs attacks on its expectation (EOT).
    """
    passed, change = facts["change"] <= 1e-4, facts["change"]
    meaning = "the model is deterministic" if passed else "the model is random, and plain attacks chase its noise"
    sentence = f"Outputs of the same images differ by {change:.2g} of their size: {meaning}."
    return passed, {"change": change, "tolerated": 1e-4}, sentence


def _zero_gradients(facts):
    """The gradient of the cross-entropy is 0 in every pixel of more than 5% of the images.

    In float32 that takes a margin of about 88 between logits, or a layer without gradient. AutoAttack flags a single
    image; a network that is merely sure of itself may have a few.
    """
    share = _share(_bits(facts["zero_gradient"]), _clean(facts))
    return _rare(
        share,
        0.05,
        f"The gradient is zero all over {_images(share)}",
        "gradients show attacks the way",
        "attacks have no direction to go there, which is no robustness",
    )


def _iterations(facts):
    """FGSM breaks what PGD does not on more than 2% of the images.

    PGD takes FGSM's step in many, so it does no worse where the gradient tells the truth; its random start may
    cost it the odd image.
    """
    share = _only(facts, ["fgsm"], ["pgd"])
    return _rare(
        share,
        0.02,
        f"One step of FGSM broke {_images(share)} that PGD's steps did not",
        "iterating does not weaken the attack",
        "following the gradient leads astray, so it is masked",
    )


def _weaker_with_steps(facts):
    """PGD breaks what it does not with more and smaller steps on more than 2% of the images.

    Smaller steps follow the gradient more closely; if that is worse, the gradient is noise or the optimiser fails.
    """
    share = _only(facts, ["pgd"], ["pgd-steps"])
    return _rare(
        share,
        0.02,
        f"PGD broke {_images(share)} that it did not break with more and smaller steps",
        "more steps do not weaken the attack",
        "the closer the gradient is followed the less it finds, so it is masked",
    )


def _steps(facts):
    """PGD with more steps breaks what it did not on more than 5% of the images.

    Where the gradient works, 20 steps are almost enough: the README of MadryLab/robustness has 53.49% after 20 and
    53.29% after 100 steps at 8/255, and 18.13 and 17.62% at 16/255.
    """
    share = _only(facts, ["pgd-steps"], ["pgd"])
    return _converged(share, "steps")


def _restarts(facts):
    """PGD with more restarts breaks what it did not on more than 5% of the images.

    In Madry's challenges 50 restarts cost the MNIST model 2.9 points and 10 the CIFAR-10 model 1.8. More means that
    the loss is so rugged that where the attack starts decides.
    """
    share = _only(facts, ["pgd-restarts"], ["pgd"])
    return _converged(share, "restarts")


def _black_box(facts):
    """Attacks that see no gradient break what no white-box attack does on more than 1% of the images.

    They know less, so they can find no more where the gradient works. AutoAttack flags 0.2% of the images, after
    attacks several times as long as ours.
    """
    ran = [name for name in BLACK_BOX if name in facts["attacks"]]
    share = _only(facts, ran, WHITE_BOX)
    return _rare(
        share,
        0.01,
        f"Attacks without gradient ({', '.join(ran)}) broke {_images(share)} that no attack with gradient did",
        "gradients help attacks, as they should",
        "the gradient is masked, and the white-box accuracy is too high",
    )


def _cross_entropy(facts):
    """APGD on the targeted DLR loss breaks what APGD on the cross-entropy does not on more than 10% of the images.

    Large logits make the gradient of the cross-entropy vanish and leave DLR as it is. On robust models that mask
    nothing DLR is ahead by 2 to 7 points (TRADES 55.1 and 53.3%, with hypersphere embedding 60.0 and 52.9%:
    https://github.com/ShawnXYang/AT_HE/issues/1).
    """
    share = _only(facts, ["apgd-t"], ["apgd-ce"])
    return _rare(
        share,
        0.10,
        f"APGD on a loss without scale broke {_images(share)} that APGD on the cross-entropy did not",
        "the cross-entropy shows attacks the way",
        "large logits hide the gradient of the cross-entropy, and accuracies under it are too high",
    )


def _large_eps(facts):
    """PGD with eps of half the range of a pixel leaves more than 5% of the images right that plain grey breaks.

    Every image is that near to grey, of which the model can say one class only. PGD gets to about 0 where it works;
    an image of that one class it need not break.
    """
    share, eps = _only(facts, ["grey"], ["pgd-large"]), facts["attacks"]["pgd-large"]["eps"]
    return _rare(
        share,
        0.05,
        f"PGD at eps {eps:g}, with which any image can become grey, left {_images(share)} right that grey breaks",
        "with enough room the attack succeeds",
        "it fails where an attack is sure to exist, so it proves nothing at smaller eps",
    )


def _label_leaking(facts):
    """Of the images that FGSM made right or wrong, more than half became right.

    An attack cannot improve an honest model; one trained on FGSM may read the label off the perturbation (Kurakin
    et al. 2016, https://arxiv.org/abs/1611.01236). Counted on raw predictions: the rule that an image wrong
    unattacked counts as wrong would hide it.
    """
    clean, attacked = _clean(facts), _bits(facts["attacks"]["fgsm"]["right"])
    figures = {"clean": float(clean.mean()), "attacked": float(attacked.mean()), "tolerated": 0.5}
    changed = clean != attacked
    unchanged = {"images": 0, "of": 0, "share": 0.0, "low": 0.0, "high": 1.0}
    share = _share(attacked, changed) if changed.any() else unchanged
    passed = share["low"] <= 0.5
    meaning = "attacking does not help the model" if passed else "the model reads the label off the perturbation"
    seen = f"Accuracy is {figures['clean']:.1%} on the images and {figures['attacked']:.1%} on FGSM's"
    return passed, share | figures, f"{seen}: {meaning}."


def _catastrophic_overfitting(facts):
    """FGSM leaves more than 75% of the images right and PGD less than 20%, each beyond its Wilson interval.

    So may training on FGSM alone end: FGSM's accuracy rises to nearly 100% and PGD's falls to 0 (Wong et al. 2020,
    https://arxiv.org/abs/2001.03994). Undefended CIFAR-10 networks, which PGD breaks altogether at 8/255, keep 47 of
    96 and 54 of 93% under FGSM (https://github.com/Harry24k/adversarial-attacks-pytorch/issues/38).
    """
    one, many = (_share(_bits(facts["attacks"][name]["right"]), _clean(facts)) for name in ("fgsm", "pgd"))
    passed = one["low"] <= 0.75 or many["high"] >= 0.2
    meaning = "no sign of resisting one step alone" if passed else "it has learned to resist one step and no more"
    figures = {"fgsm": one["share"], "fgsm_low": one["low"], "pgd": many["share"], "pgd_high": many["high"]}
    sentence = f"Of the images, FGSM leaves {one['share']:.1%} right and PGD {many['share']:.1%}: {meaning}."
    return passed, figures | {"fgsm_tolerated": 0.75, "pgd_expected": 0.2}, sentence


RULES = {
    "probabilities": _probabilities,
    "randomness": _randomness,
    "zero gradients": _zero_gradients,
    "iterations": _iterations,
    "weaker with steps": _weaker_with_steps,
    "steps": _steps,
    "restarts": _restarts,
    "black box": _black_box,
    "cross-entropy": _cross_entropy,
    "large eps": _large_eps,
    "label leaking": _label_leaking,
    "catastrophic overfitting": _catastrophic_overfitting,
}
_OF_OUTPUTS = (_probabilities, _randomness)


def _bits(text):
    return np.array(list(text)) == "1"


def _clean(facts):
    return _bits(facts["clean"]["right"])


def _share(chosen, among):
    """Figures of how many of the images `among` (N,) are `chosen` (N,), at least one of the former."""
    images, of = int((chosen & among).sum()), int(among.sum())
    low, high = wilson(images, of)
    return {"images": images, "of": of, "share": images / of, "low": low, "high": high}


def _only(facts, breakers, others):
    """Figures of the images right unattacked that some of `breakers` broke and none of `others`."""
    right = {name: _bits(facts["attacks"][name]["right"]) for name in (*breakers, *others)}
    broken = ~np.logical_and.reduce([right[name] for name in breakers])
    return _share(broken & np.logical_and.reduce([right[name] for name in others]), _clean(facts))


def _images(share):
    return f"{share['images']} of {share['of']} images ({share['share']:.1%})"


def _rare(share, tolerated, seen, fine, suspicious):
    passed = share["low"] <= tolerated
    return passed, share | {"tolerated": tolerated}, f"{seen}: {fine if passed else suspicious}."


def _converged(share, what):
    return _rare(
        share,
        0.05,
        f"More {what} made PGD break another {_images(share)}",
        "it has converged",
        f"it has not converged, and the robust accuracy would fall further with more {what}",
    )
