"""A property that is computed once, without a lock."""

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    cached_property = functools.cached_property
else:

    class cached_property(functools.cached_property):  # noqa: N801 - that of functools
        """As in Python 3.12, where two threads may compute it at once.

        Python 3.11 has one lock for all objects of a class, held while the property is computed. A thread that waits
        for a model there stands in the way of the one that has the model and wants the property of another object.
        """

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            values = vars(instance)
            if self.attrname not in values:
                values[self.attrname] = self.func(instance)
            return values[self.attrname]
