"""For `--plugins`: BatchNorm has the statistics of the whole batch, so that any number of devices computes the same."""

from tfadv.models import builder

builder.build.__kwdefaults__["synchronized"] = True
