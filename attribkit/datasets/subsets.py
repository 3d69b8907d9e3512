"""Parts of a data set that are reported beside the whole."""


def difficult(area: float, image_area: int, categories: int) -> frozenset[str]:
    """Zhang et al. (ECCV 2016): a target of less than a quarter of the image, and another category beside it.

    area: of the target's objects together, in pixels. categories: in the image.
    """
    return frozenset({"difficult"} if area < image_area / 4 and categories > 1 else ())
