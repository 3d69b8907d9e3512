"""Conformance checks for attribution methods: the contract of the call, and maps whose correct values are known."""

from attribkit.testing._method_checks import maps as maps  # adds its checks to METHOD_CHECKS
from attribkit.testing._method_checks.contract import METHOD_CHECKS, check_method, check_method_half_precision

__all__ = ["METHOD_CHECKS", "check_method", "check_method_half_precision"]
