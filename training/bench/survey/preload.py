"""Imported once by the process that the others are forked from: what every run needs is loaded, and nothing runs."""

from training.bench.common import warm_up
from training.bench.survey.runs import package_digest

warm_up(1)
package_digest()  # of the code that was loaded, should it be edited from now on
