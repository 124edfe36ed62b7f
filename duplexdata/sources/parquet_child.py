"""Reads a Parquet file in a process of its own, whose memory has a limit. Started by `parquet.py`; needs pyarrow.

A column of a few bytes may decode to any size: a dictionary holds a text once, and a run length says how often it is
meant. No figure in the file can be relied on to tell; and what a damaged file says of itself may end the process that
reads it. So it is tried where failing harms nobody.

First a line of JSON goes to standard output: the columns, the rows, the bytes of each column as the file says. Then a
line is read from standard input: the columns to decode, and rows in a batch. Batches follow as an Arrow stream; one
without rows stands for a row that is too large to be sent.

Arguments: path, most bytes and most elements of a row, bytes of memory, seconds.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

OUT_OF_MEMORY, UNREADABLE = 3, 4


def main(path: str, row_bytes: int, row_elements: int, memory: int, seconds: int) -> int:
    _limit(resource.RLIMIT_DATA, _data_bytes() + memory)
    _more_time(seconds)
    try:
        with pq.ParquetFile(path) as file:
            sys.stdout.buffer.write(json.dumps(_facts(file)).encode() + b"\n")
            sys.stdout.buffer.flush()
            if not (asked := sys.stdin.readline()):
                return 0  # it is not wanted
            columns, rows = json.loads(asked)
            stream = None
            for batch in file.iter_batches(rows, columns=columns, use_threads=False):
                whole = _expanded(batch)
                stream = stream or pa.ipc.new_stream(sys.stdout.buffer, whole.schema)
                for piece in _pieces(whole, row_bytes, row_elements):
                    stream.write_batch(piece)
                _more_time(seconds)
            if stream is not None:
                stream.close()
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        return 0  # nobody wants the rest
    except MemoryError:  # pyarrow's is one too
        return OUT_OF_MEMORY
    except Exception as error:  # whatever a damaged file makes pyarrow raise
        sys.stderr.write(f"{type(error).__name__}: {error}"[:300])
        return UNREADABLE
    return 0


def _facts(file: pq.ParquetFile) -> dict[str, object]:
    """Texts that are stored once count once in the bytes of a column."""
    sizes: dict[str, int] = {}
    for g in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(g)
        for c in range(group.num_columns):
            column = group.column(c)
            name = column.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + max(0, column.total_uncompressed_size)
    return {"names": file.schema_arrow.names, "rows": file.metadata.num_rows, "sizes": sizes}


def _expanded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With values in place of references to them: their size is then what it looks like."""
    schema = pa.schema([f.with_type(_plain(f.type)) for f in batch.schema])
    return batch if schema == batch.schema else batch.cast(schema)


def _plain(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain(type_.value_type)
    if pa.types.is_string_view(type_):
        return pa.large_string()
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        made = pa.list_ if pa.types.is_list(type_) else pa.large_list
        return made(type_.value_field.with_type(_plain(type_.value_type)))
    if pa.types.is_struct(type_):
        return pa.struct([f.with_type(_plain(f.type)) for f in type_])
    return type_


def _pieces(batch: pa.RecordBatch, row_bytes: int, row_elements: int) -> Iterator[pa.RecordBatch]:
    """The batch, or where it is larger than a row may be its rows one by one."""
    if batch.nbytes <= row_bytes and _elements(batch) <= row_elements:
        yield batch
        return
    for i in range(batch.num_rows):
        row = batch.slice(i, 1)
        fits = row.nbytes <= row_bytes and _elements(row) <= row_elements
        yield row if fits else row.slice(0, 0)


def _elements(batch: pa.RecordBatch) -> int:
    """Values in it, nested ones too: they may take no byte here, and take a pointer as Python's."""
    return sum(_count(column) for column in batch.columns)


def _count(array: pa.Array) -> int:
    type_ = array.type
    if pa.types.is_struct(type_):
        return len(array) + sum(_count(field) for field in array.flatten())
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return len(array) + _count(array.flatten())
    return len(array)


def _limit(which: int, soft: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _more_time(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)


def _data_bytes() -> int:
    """What the interpreter and its libraries have taken already."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    except (OSError, StopIteration):
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
