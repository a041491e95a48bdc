"""What stage vawan trains, built: the baseline around a pretrained Wan."""

from typing import cast

from exo2ego.model.vawan.model import build_vawan
from exo2ego.training.build import Built, Origin, initial_draws, pretrained_wan
from exo2ego.training.experiment import VawanExperiment


def build_vawan_stage(origin: Origin) -> Built:
    """VAWAN with fresh weights beside Wan's."""
    experiment = cast(VawanExperiment, origin.experiment)
    wan, about = pretrained_wan(origin)
    model = build_vawan(
        wan,
        experiment.vawan,
        initial_draws(experiment),
        first_frame_known=experiment.condition.first_frame_known,
    )
    return Built(model, about)
