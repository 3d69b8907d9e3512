"""Heads that make a model explain itself: class activation maps in closed form (Zhou et al., CVPR 2016)."""

from attribkit.heads.attach import CAMModel, cam_head
from attribkit.heads.training import Epoch, History, train_head

__all__ = ["CAMModel", "Epoch", "History", "cam_head", "train_head"]
