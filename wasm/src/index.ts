export { DatabaseCore as DeltaVectorDB, type DatabaseOptions } from './database.js';
export { loadDeltaVectors, type LoadOptions, type Loaded, type Variant } from './loader.js';
export { encodeFrame, decodeFrame } from './frame.js';
export { DeltaVectorsError, type ErrorCode } from './errors.js';
export type * from './types.js';
