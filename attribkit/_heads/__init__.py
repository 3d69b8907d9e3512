"""Trainable heads for closed-form class activation maps (Zhou et al., CVPR 2016)."""

from attribkit._heads.attach import CAMModel, cam_head
from attribkit._heads.training import Epoch, History, train_head

__all__ = ["CAMModel", "Epoch", "History", "cam_head", "train_head"]
