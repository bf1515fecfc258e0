"""The words of a condition: what is allowed of SQL, and units that can stand behind a number."""

from __future__ import annotations

# Unit of a column -> its dimension, where a person can write units of it.
DIMENSIONS = {
    "angstrom": "length",
    "eV": "energy",
    "rad": "angle",
    "electron/angstrom^2": "dose",
    "pA": "current",
    "us": "time",
    "angstrom/s": "speed",
}
COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "<>",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_DISTINCT_FROM": "IS DISTINCT FROM",
    "COMPARE_NOT_DISTINCT_FROM": "IS NOT DISTINCT FROM",
}
ARITHMETIC = ("+", "-", "*", "/", "//", "%", "**", "^", "&", "|", "<<", ">>")
# A negative number to a fraction is NaN; other computations without a result are errors.
POWERS = ("**", "^", "pow", "power")
# What is true of a number that does not apply: it is NaN in the file, NULL in a condition.
UNKNOWN = {"isnan": "true", "isinf": "false", "isfinite": "false"}
MATCHES = {
    "~~": "LIKE",
    "!~~": "NOT LIKE",
    "~~*": "ILIKE",
    "!~~*": "NOT ILIKE",
    "~~~": "GLOB",
    "||": "||",
}
# Functions whose result has the unit of their arguments; those with numbers; the others.
ALIKE = tuple(
    "abs round floor ceil ceiling trunc least greatest nullif min max avg mean sum median "
    "quantile_cont quantile_disc mode any_value stddev stddev_samp stddev_pop".split()
)
NUMERIC = tuple(
    "sign sqrt cbrt exp ln log log2 log10 pow power mod sin cos tan asin acos atan atan2 degrees "
    "radians pi length position strpos instr count count_star variance var_samp var_pop".split()
)
OTHERS = tuple(
    "isnan isinf isfinite if lower upper starts_with ends_with prefix suffix contains substring "
    "substr left right trim ltrim rtrim concat regexp_matches regexp_full_match list_value "
    "list_contains bool_and bool_or arg_min arg_max min_by max_by".split()
)
# What a value can be turned into.
TEXTS = ("VARCHAR", "TEXT", "STRING", "BOOLEAN", "BOOL")
NUMBERS = (
    *("DOUBLE", "FLOAT", "REAL", "TINYINT", "SMALLINT", "INTEGER", "INT", "BIGINT"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
)
# What stands behind an expression to sort by; what is missing comes last.
DIRECTIONS = {"ORDER_DEFAULT": "ASC", "ASCENDING": "ASC", "DESCENDING": "DESC"}
NULLS = {
    "ORDER_DEFAULT": "NULLS LAST",
    "NULLS FIRST": "NULLS FIRST",
    "NULLS LAST": "NULLS LAST",
}
