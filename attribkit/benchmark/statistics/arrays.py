"""The arrays that cross a boundary: n samples of g groups, k statistics, r resamples."""

from jaxtyping import Bool, Float64, Int, Int64, UInt8
from numpy import ndarray

PerSample = Float64[ndarray, "k n"]  # NaN where not defined
Present = Bool[ndarray, "k n"]
Groups = Int64[ndarray, " n"]  # the group of each sample, ascending from 0, none left out
Categories = Int64[ndarray, " n"]  # -1 where it has none
Weights = UInt8[ndarray, "r g"]  # how often each resample drew each group
Chosen = Int[ndarray, " p"]  # indices of rows
