"""A plugin: checks for gradient masking that use FGSM only, for tests that are not about them."""

from tests.checks import fgsm_only
from tfadv.evaluation import masking

masking._diagnostic_attacks = fgsm_only
