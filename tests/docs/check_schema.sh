#!/bin/sh
# check_schema.sh SCHEMA.sql EXTENSION RUNNER...
#
# The tables that SCHEMA.sql writes down are those that the CREATE VIRTUAL TABLE statements in it (the lines that begin with
# "-->") make: the same names, columns, types, keys and indexes. RUNNER DATABASE is as for run/compare.sh.
set -eu
schema=$1 extension=$2
shift 2
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
ln -s "$extension.so" delta_vectors.so

cat >describe <<'END'
SELECT t.name, t.ncol, t.wr, t.strict FROM pragma_table_list AS t
 WHERE t.schema = 'main' AND t.type <> 'virtual' AND t.name NOT LIKE 'sqlite%' ORDER BY t.name;
SELECT t.name, c.cid, c.name, c.type, c."notnull", c.dflt_value, c.pk, c.hidden
  FROM pragma_table_list AS t, pragma_table_xinfo(t.name) AS c
 WHERE t.schema = 'main' AND t.type <> 'virtual' AND t.name NOT LIKE 'sqlite%' ORDER BY t.name, c.cid;
SELECT t.name, i."unique", i.origin, i.partial, k.seqno, k.name
  FROM pragma_table_list AS t, pragma_index_list(t.name) AS i, pragma_index_info(i.name) AS k
 WHERE t.schema = 'main' AND t.type <> 'virtual' AND t.name NOT LIKE 'sqlite%' ORDER BY t.name, i.seq, k.seqno;
END

echo '.load ./delta_vectors' >load
sed -n 's/^--> //p' "$schema" >create
cat load create describe | "$@" made.db >made 2>&1
cat load "$schema" describe | "$@" written.db >written 2>&1
[ -s create ] && grep -q _log made
diff -u --label "$(basename "$schema")" --label "what CREATE VIRTUAL TABLE makes" written made
echo "$(grep -c '^[^|]*|[0-9]*|[01]|[01]$' made) tables are as written down"
