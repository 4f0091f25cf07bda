/** Options, checked and made complete; and the SQL that they become. */
import { badOption, DeltaVectorsError } from './errors.js';
import type { DeltaDBOptions, Metric } from './types.js';

export interface TableOptions extends Required<DeltaDBOptions> {
  /** Name of the delta_vectors table. */
  table: string;
}

const METRICS: readonly Metric[] = ['cosine', 'l2', 'ip', 'l1'];

/** [name, default, least, most] */
const NUMBERS = [
  ['dimensions', 384, 1, 65536],
  ['maxVectors', 100_000, 0, 2147483647],
  ['checkpointInterval', 100, 1, 10_000],
  ['hnswM', 16, 2, 512],
  ['hnswEfConstruction', 100, 1, 100_000],
  ['hnswEfSearch', 50, 1, 100_000],
] as const;

/** @param others names of options that are somebody else's business */
export function tableOptions(options: DeltaDBOptions & { table?: string }, others: readonly string[] = []): TableOptions {
  const out = { compression: true, metric: 'cosine', table: 'vectors' } as Record<string, unknown>;
  for (const [name, preset] of NUMBERS) out[name] = preset;
  for (const [name, value] of Object.entries(options)) {
    if (others.includes(name) || value === undefined) continue;
    if (!(name in out)) {
      const known = [...Object.keys(out), ...others].sort().join(', ');
      throw new DeltaVectorsError('invalid', `there is no option ${name}; the options are ${known}`);
    }
    out[name] = value;
  }
  for (const [name, , least, most] of NUMBERS) {
    const value = out[name];
    if (!Number.isInteger(value) || (value as number) < least || (value as number) > most) {
      throw badOption(name, value, `a whole number from ${least} to ${most}`);
    }
  }
  if (typeof out['compression'] !== 'boolean') throw badOption('compression', out['compression'], 'true or false');
  if (!METRICS.includes(out['metric'] as Metric)) throw badOption('metric', out['metric'], METRICS.join(', '));
  if (typeof out['table'] !== 'string' || out['table'] === '' || out['table'].includes('\0')) {
    throw badOption('table', out['table'], 'the name of a table');
  }
  return out as unknown as TableOptions;
}

export function quoted(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}

export function createTableSql(o: TableOptions): string {
  return (
    `CREATE VIRTUAL TABLE IF NOT EXISTS main.${quoted(o.table)} USING delta_vectors(` +
    `dimensions=${o.dimensions}, metric=${o.metric}, max_vectors=${o.maxVectors}, compression=${o.compression ? 'on' : 'off'}, ` +
    `checkpoint_interval=${o.checkpointInterval}, hnsw_m=${o.hnswM}, hnsw_ef_construction=${o.hnswEfConstruction}, ` +
    `hnsw_ef_search=${o.hnswEfSearch})`
  );
}
