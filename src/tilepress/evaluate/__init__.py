"""Quality of a model: perplexity on a text, and divergence from a reference model."""

from tilepress.evaluate.divergence import Divergence, divergence
from tilepress.evaluate.perplexity import Perplexity, perplexity
from tilepress.registration import make_callable
from tilepress.text.prose import held_out_english

__all__ = ["Divergence", "Perplexity", "divergence", "held_out_english", "perplexity"]

make_callable(__name__)
