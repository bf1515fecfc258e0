"""Commands for experimental images: inspect, fit, columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import commands, with_options


class QuantityParameter(click.ParamType):
    """A quantity with its unit, in internal units."""

    def __init__(self, dimension: str, example: str) -> None:
        self.dimension = dimension
        self.name = example

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        from hpctem.units import parse_quantity

        if isinstance(value, float):
            return value
        try:
            number = parse_quantity(value, self.dimension)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not number > 0:
            self.fail(f"{value} is not above zero", param, ctx)
        return number


class AnglesParameter(click.ParamType):
    """Two angles, inner:outer with a unit, in radian."""

    name = "80:200mrad"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        from hpctem.units import parse_quantity

        if isinstance(value, tuple):
            return value
        first, colon, last = str(value).partition(":")
        unit = last.lstrip("0123456789.+-eE ")
        try:
            if not colon:
                raise ValueError(f"{value!r} is not inner:outer, such as 80:200mrad")
            first = first if first.rstrip()[-1:].isalpha() else f"{first} {unit}"
            inner, outer = (parse_quantity(one, "angle") for one in (first, last))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 <= inner < outer <= 1:
            self.fail(f"{value}: the inner angle must lie below the outer, up to 1 rad", param, ctx)
        return inner, outer


class RowsParameter(click.ParamType):
    """a:b, rows a up to b, which is not included; either may be missing."""

    name = "a:b"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int | None]:
        if isinstance(value, tuple):
            return value
        first, colon, last = str(value).partition(":")
        if not colon or not all(part == "" or part.isdigit() for part in (first, last)):
            self.fail(f"{value!r} is not a:b, such as 0:496", param, ctx)
        return int(first or 0), int(last) if last else None


class FrameParameter(click.ParamType):
    """The number of a frame of a stack, or 'mean'."""

    name = "k|mean"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "mean" or isinstance(value, int):
            return value
        if not str(value).isdigit():
            self.fail(f"{value!r} is neither the number of a frame nor 'mean'", param, ctx)
        return int(value)


# The options of all commands that read a micrograph.
_reading = with_options(
    click.option(
        "--lattice", metavar="NAME", help="Crystal (mos2, graphene) or a=3.16A,hexagonal."
    ),
    click.option(
        "--pixel-size",
        type=QuantityParameter("length", "13.4pm"),
        help="Instead of the file's.",
    ),
    click.option("--rows", type=RowsParameter(), help="Only these rows, b not included."),
    click.option("--frame", type=FrameParameter(), help="Of a stack: one, or all averaged."),
    click.option(
        "--energy", type=QuantityParameter("energy", "60keV"), help="Instead of the file's."
    ),
    click.option(
        "--semiangle",
        type=QuantityParameter("angle", "30mrad"),
        help="Convergence semiangle, instead of the file's.",
    ),
)


@commands.command()
@click.argument("image", type=click.Path(path_type=str))
@_reading
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw a picture: PNG, PDF or SVG.",
)
def inspect(image: str, output: Path | None, **options: Any) -> None:
    """Say what an experimental image holds: header, intensities, lattice, noise, lines.

    IMAGE is a DM3, DM4, EMD, HSPY, TIFF, PNG, NPY or other file; NAME::TITLE is one of several
    images in it. The picture shows the image, its power spectrum with the spots found, histogram,
    noise, and the displacement of the lines.

    \b
    Examples:
      hpctem inspect mos2.dm3
      hpctem inspect mos2.dm3 --lattice mos2 -o mos2.png
      hpctem inspect scan.png --pixel-size 13.4pm --energy 60keV
    """
    from hpctem.micrographs.describe import describe_micrograph, format_rows
    from hpctem.micrographs.measure import cut_rows, find_limit, measure

    if output is not None:
        from hpctem.pictures import choose_kind

        choose_kind(output)
    micrograph, known, rows = _open(image, options)
    measured = measure(micrograph, known, rows)
    pixel = micrograph.pixel_size[1] if micrograph.pixel_size else None
    if known is not None and measured.distortion is not None:
        pixel = measured.distortion.pixel_size
    limit = find_limit(pixel, micrograph.energy, micrograph.source.get("semiangle"))
    used = cut_rows(micrograph.image, rows)
    click.echo(image)
    click.echo(format_rows(describe_micrograph(micrograph, used, measured, known, limit)))
    if output is not None:
        from hpctem.micrographs.draw import draw_inspection
        from hpctem.pictures import save_figure

        title = f"{Path(image).name}: {micrograph.title}"
        figure = draw_inspection(used, measured, title, pixel, limit)
        click.echo(f"picture: {click.format_filename(save_figure(figure, output))}")


@commands.command()
@click.argument("image", type=click.Path(path_type=str))
@_reading
@click.option("--detector", type=AnglesParameter(), help="Inner and outer angle.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML file; printed without it.",
)
def fit(image: str, output: Path | None, **options: Any) -> None:
    """Propose a STEM campaign's imaging from an experimental image, as YAML.

    Measures pixel size, shear and contraction by the lattice, jitter and flagging of the lines,
    sharpness, noise and contamination, each with its uncertainty; says what it assumed and what one
    image cannot tell. The section 'imaging' that it writes can be used as it is.

    \b
    Examples:
      hpctem fit mos2.dm3 --lattice mos2 --rows 0:496
      hpctem fit mos2.dm3 --lattice mos2 --semiangle 30mrad --detector 80:200mrad -o imaging.yaml
    """
    from hpctem.micrographs.describe import format_proposal
    from hpctem.micrographs.fit import propose_imaging, write_fragment

    collection = options.pop("detector")
    micrograph, known, rows = _open(image, options)
    proposal = propose_imaging(
        micrograph, known, rows, micrograph.energy, options["semiangle"], collection
    )
    fragment = write_fragment(proposal, Path(image).name, known)
    if output is None:
        click.echo(fragment)
        click.echo(
            "\n".join(f"# {line}".rstrip() for line in format_proposal(proposal).splitlines())
        )
        return
    output.write_text(fragment)
    click.echo(format_proposal(proposal))
    click.echo(f"\nfragment: {click.format_filename(output)}")


class RatiosParameter(click.ParamType):
    """Two ratios a:b."""

    name = "0.5:0.75"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            first, last = (float(part) for part in str(value).split(":"))
        except ValueError:
            self.fail(f"{value!r} is not two ratios, such as 0.5:0.75", param, ctx)
        return first, last


@commands.command()
@click.argument("image", type=click.Path(path_type=str))
@_reading
@click.option("--site", required=True, help="Which columns are judged: S2, Mo, C ...")
@click.option(
    "--dim", type=RatiosParameter(), help="Surely dim below the first, perhaps below the second."
)
@click.option(
    "--bright", type=RatiosParameter(), help="Perhaps bright above the first, surely the second."
)
@click.option(
    "--names", default="dim,bright", show_default=True, help="What the two are called as classes."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="CSV of what is marked; a picture is drawn beside it.",
)
@click.option("--all", "everything", is_flag=True, help="Usual columns into the CSV as well.")
def columns(
    image: str,
    site: str,
    dim: tuple[float, float] | None,
    bright: tuple[float, float] | None,
    names: str,
    output: Path,
    everything: bool,
    **options: Any,
) -> None:
    """Measure every atom column of an experimental image, and mark dim and bright ones.

    A reference to judge networks by ('hpctem evaluate --truth'), made by a rule and not by eye: a
    column's height over that of its neighbours of the same kind. Columns between the two ratios are
    marked as ambiguous. Needs --lattice, the name of the crystal.

    \b
    Examples:
      hpctem columns mos2.dm3 --lattice mos2 --rows 528: --site S2 --dim 0.5:0.75 \\
          --bright 1.4:1.7 --names s_vacancy,se_on_s -o reference.csv
    """
    from hpctem.micrographs.columns import measure_columns
    from hpctem.micrographs.marks import (
        Rule,
        describe_marks,
        draw_marks,
        mark_columns,
        write_marks,
    )
    from hpctem.micrographs.measure import cut_rows, measure
    from hpctem.pictures import save_figure

    called = tuple(name.strip() for name in names.split(","))
    if len(called) != 2 or not all(called):
        raise click.UsageError(f"--names {names}: write two names, such as vacancy,substitution")
    if dim is None and bright is None:
        raise click.UsageError("nothing is judged: give --dim, --bright or both")
    micrograph, known, rows = _open(image, options)
    if known is None:
        raise click.UsageError("--lattice is missing: which crystal is it, such as mos2?")
    used = cut_rows(micrograph.image, rows)
    rule = Rule(site, dim, bright, (called[0], called[1]))
    measured = measure(micrograph, known, rows)
    first = rows[0] if rows else 0
    marks = mark_columns(measure_columns(used, measured, known), rule, first)
    write_marks(marks, output, everything)
    click.echo("\n".join(describe_marks(marks, rule)))
    figure = draw_marks(used, marks, rule, first, Path(image).name)
    picture = save_figure(figure, output.with_name(output.name + ".png"))
    click.echo(f"columns: {click.format_filename(output)}, picture: {picture}")


def _open(image: str, options: dict[str, Any]) -> tuple[Any, Any, tuple[int, int] | None]:
    """The micrograph as the options say, the crystal's lattice and the rows."""
    from hpctem.micrographs.known import parse_lattice
    from hpctem.micrographs.measure import cut_rows
    from hpctem.micrographs.read import read_micrograph

    known = parse_lattice(options["lattice"]) if options["lattice"] else None
    micrograph = read_micrograph(image, options["frame"])
    changes: dict[str, Any] = {}
    if options["pixel_size"] is not None:
        changes["pixel_size"] = (options["pixel_size"], options["pixel_size"])
    if options["energy"] is not None:
        changes["energy"] = options["energy"]
    if options["semiangle"] is not None:
        changes["source"] = {**micrograph.source, "semiangle": options["semiangle"]}
    micrograph = dataclasses.replace(micrograph, **changes)
    rows = options["rows"]
    if rows is not None:
        rows = (rows[0], len(micrograph.image) if rows[1] is None else rows[1])
        cut_rows(micrograph.image, rows)
    return micrograph, known, rows
