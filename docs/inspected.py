"""What griffe should not say of what it finds by importing the package."""

from typing import Any

import griffe


class AsUsersSeeIt(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """The docstring of a value, such as that of `int` for an attribute of 0, says nothing of the attribute."""
        if "property" not in attr.labels:
            attr.docstring = None

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """A verb returns what the call that it is made of comes to."""
        if isinstance(func.returns, griffe.ExprSubscript) and str(func.returns.left) == "Call":
            func.returns = func.returns.slice
