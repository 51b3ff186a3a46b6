"""What other rooms use of models."""

from .loading import LoadedModel as LoadedModel
from .loading import digest_of as digest_of
from .loading import load_model as load_model
from .trained import build_defense as build_defense
