"""The conformance suite of attribkit for every method."""

import attribkit_captum as plugin

import attribkit.testing as testing

METHODS = [method(**method.check_options) for method in plugin.METHODS]


@testing.parametrize_with_checks(METHODS)
def test_conformance(instance, check):
    check(instance)
