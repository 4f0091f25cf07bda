"""wasmtime_host.py COMPONENT: the component in wasmtime, driven by lines of JSON on standard input, answered on standard output.

    {"start": {"grant": directory or null, "memory": bytes or null}}   a new instance, with the directory as /data
    {"call": [interface, function], "args": [...]}                     {"ok": value}, {"error": text}, {"trap": text}
    {"drop": handle}

Values are what jco makes of them in JavaScript, as far as JSON goes: records with camel-case names, variants as {"tag", "val"},
resources by number. {"$f": base64} is a list<f32>, {"$b": base64} a list<u8>, {"$n": digits} a 64-bit integer, {"$x": "NaN"} a number
that JSON does not know.
"""
import array
import base64
import json
import os
import sys

from wasmtime import Engine, Store, WasiConfig, WasmtimeError, Trap
from wasmtime import component as c


def load(path):
    """Compiling takes seconds, so what was compiled is kept beside the component."""
    kept = path + ".compiled"
    if os.path.exists(kept) and os.path.getmtime(kept) > os.path.getmtime(path):
        try:
            return c.Component.deserialize_file(engine, kept)
        except WasmtimeError:
            pass  # by another version
    code = c.Component.from_file(engine, path)
    with open(f"{kept}.{os.getpid()}", "wb") as file:
        file.write(code.serialize())
    os.replace(file.name, kept)
    return code


engine = Engine()
code = load(sys.argv[1])
store = instance = None
handles = []


def start(grant, memory):
    global store, instance
    handles.clear()
    wasi = WasiConfig()
    wasi.inherit_stderr()
    if grant is not None:
        wasi.preopen_dir(grant, "/data")
    store = Store(engine)
    store.set_wasi(wasi)
    if memory is not None:
        store.set_limits(memory_size=memory)
    linker = c.Linker(engine)
    linker.add_wasip2()
    instance = linker.instantiate(store, code)


def camel(name):
    first, *rest = name.split("-")
    return first + "".join(word.capitalize() for word in rest)


def lower(ty, v):
    if isinstance(ty, c.RecordType):
        record = c.Record()
        for name, field in ty.fields:
            setattr(record, name, lower(field, v.get(camel(name))))
        return record
    if isinstance(ty, c.VariantType):
        payload = dict(ty.cases)[v["tag"]]
        value = None if payload is None else lower(payload, v["val"])
        return c.Variant(v["tag"], value) if ty._tagged() else value
    if isinstance(ty, c.OptionType):
        return None if v is None else lower(ty.payload, v)
    if isinstance(ty, c.ListType):
        if isinstance(v, dict) and "$f" in v:
            return list(array.array("f", base64.b64decode(v["$f"])))
        if isinstance(v, dict) and "$b" in v:
            return base64.b64decode(v["$b"])
        return [lower(ty.element, e) for e in v]
    if isinstance(ty, (c.OwnType, c.BorrowType)):
        return handles[v]
    if isinstance(ty, (c.F32, c.F64)):
        return float(v["$x"] if isinstance(v, dict) else v)
    if isinstance(v, dict):
        return int(v["$n"])
    return v


def lift(ty, v):
    if ty is None:
        return None
    if isinstance(ty, c.RecordType):
        return {camel(name): lift(field, getattr(v, name)) for name, field in ty.fields}
    if isinstance(ty, c.VariantType):
        payload = dict(ty.cases)[v.tag]
        return {"tag": v.tag} if payload is None else {"tag": v.tag, "val": lift(payload, v.payload)}
    if isinstance(ty, c.OptionType):
        return None if v is None else lift(ty.payload, v)
    if isinstance(ty, c.ListType):
        if isinstance(ty.element, c.F32):
            return {"$f": base64.b64encode(array.array("f", v).tobytes()).decode()}
        if isinstance(v, bytes):
            return {"$b": base64.b64encode(v).decode()}
        return [lift(ty.element, e) for e in v]
    if isinstance(ty, (c.OwnType, c.BorrowType)):
        handles.append(v)
        return len(handles) - 1
    if isinstance(ty, (c.U64, c.S64)):
        return {"$n": str(v)}
    return v


def call(interface, name, args):
    place = instance.get_export_index(store, f"ruvector:delta/{interface}@0.1.0")
    function = instance.get_func(store, instance.get_export_index(store, name, place))
    ty = function.type(store)
    result = function(store, *[lower(t, v) for (_, t), v in zip(ty.params, args)])
    if not isinstance(ty.result, c.ResultType):
        return {"ok": lift(ty.result, result)}
    if ty.result._tagged():
        is_ok, result = result.tag == "ok", result.payload
    else:
        is_ok = not isinstance(result, str)
    return {"ok": lift(ty.result.ok, result)} if is_ok else {"error": result}


for line in sys.stdin:
    request = json.loads(line)
    try:
        if "start" in request:
            start(**request["start"])
            answer = {"ok": None}
        elif "drop" in request:
            handles[request["drop"]].drop(store)
            handles[request["drop"]] = None
            answer = {"ok": None}
        else:
            answer = call(*request["call"], request["args"])
    except (WasmtimeError, Trap) as e:
        answer = {"trap": str(e)}
    print(json.dumps(answer), flush=True)
