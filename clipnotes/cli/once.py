"""Commands that refuse an option given twice: click takes the last one and says nothing."""

import click

from clipnotes.errors import ClipnotesError


class Command(click.Command):
    """As click's, but an option that takes one value stands once, else ClipnotesError."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = self.make_parser(ctx).parse_args(args=list(args))[2]  # the parameters, as often as they stand there
        for option in given:
            if isinstance(option, click.Option) and not (option.multiple or option.is_flag) and given.count(option) > 1:
                raise ClipnotesError(f"Option {option.opts[0]} is given {given.count(option)} times, and one would count: keep "
                                     "the one that is meant.")
        return super().parse_args(ctx, args)


class Group(click.Group):
    """Of such commands, also in its subgroups."""

    command_class = Command
    group_class = type
