"""What an attack cost, and what it did otherwise than asked."""

import dataclasses


@dataclasses.dataclass
class Cost:
    """Adds up over the calls it is given to, as the argument `cost` of any attack.

    An image that is broken early costs less than another, so this is counted and
    not reckoned; images that XLA computes for the sake of its fixed shapes count
    as well.

    Attributes:
      gradients: int, images that went forward and backward through the model.
      forwards: int, images that went forward only.
      instead: dict of loss → loss that stood in for it (`losses.used`).
      unbroken: dict of attack → list of int, one an eps: the images `autoattack` had not broken after it.
    """

    gradients: int = 0
    forwards: int = 0
    instead: dict = dataclasses.field(default_factory=dict)
    unbroken: dict = dataclasses.field(default_factory=dict)

    def add(self, gradients=0, forwards=0):
        """Counts so many more."""
        self.gradients += int(gradients)
        self.forwards += int(forwards)

    def uses(self, asked, used):
        """Remembers a loss that stands in for another."""
        if used != asked:
            self.instead[asked] = used
