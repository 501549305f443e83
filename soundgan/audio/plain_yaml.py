"""YAML as data: scalars, lists and tables. Tags are kept as text, and none is obeyed.

The one module that needs PyYAML; `hifigan.py` imports it where a folder has such a file.
"""

from __future__ import annotations

import yaml

from soundgan.audio.hifigan import Tagged


class Plain(yaml.SafeLoader):
    """Scalars, lists and tables; any other tag is kept beside its value, as text."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of them can stand for gigabytes
            raise ValueError("it uses aliases (*name)")
        return super().compose_node(parent, index)

    def tagged(self, tag: str, node: yaml.Node) -> Tagged:
        """`tag`: all of it, such as `!ref`."""
        if isinstance(node, yaml.ScalarNode):
            return Tagged(tag, self.construct_scalar(node))
        if isinstance(node, yaml.SequenceNode):
            return Tagged(tag, self.construct_sequence(node, deep=True))
        return Tagged(tag, self.construct_mapping(node, deep=True))


Plain.add_multi_constructor("", Plain.tagged)


def read(content: bytes) -> object:
    """The value of a YAML text; raises ValueError with the reason."""
    try:
        return yaml.load(content, Plain)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
