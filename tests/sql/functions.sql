-- Vectors as people write them, and as they are stored: little-endian 32-bit floats.
SELECT hex(vector_f32('[1, -2.5, 1e-3]'));
SELECT vector_json(vector_f32('[1, -2.5, 1e-3]'));
SELECT vector_json(x'0000803F0000204099999999');
SELECT vector_json('[0.1, 0.2, 16777217, 1e-45, 3.4028235e38]');
SELECT vector_length('[1,2,3]'), vector_length(x'0000803F00002040');
SELECT typeof(vector_f32('[1]')), json_object('v', vector_json('[1, 2]'));

-- A NULL vector gives NULL.
SELECT vector_f32(NULL), vector_json(NULL), vector_length(NULL), vector_distance(NULL, '[1]'), vector_distance('[1]', NULL);
SELECT vector_normalize(NULL), vector_add('[1]', NULL), vector_sub(NULL, '[1]'), vector_scale(NULL, 2), vector_slice(NULL, 0, 1);
SELECT count(*) FROM vector_each(NULL);

-- What is not a vector.
SELECT vector_f32('');
SELECT vector_f32('[]');
SELECT vector_f32('[1,2');
SELECT vector_f32('[1,2] and more');
SELECT vector_f32('[1,null]');
SELECT vector_f32('[ä]');
SELECT vector_f32('{"a":1}');
SELECT vector_f32('[1,2e39]');
SELECT vector_f32(x'');
SELECT vector_f32(x'0000803F00');
SELECT vector_f32(x'0000803F0000C07F');
SELECT vector_f32(x'0000803F000080FF');
SELECT vector_f32(7);
SELECT vector_f32(7.5);
SELECT vector_f32();

-- Distances: smaller is nearer, for each metric; cosine is the default.
SELECT vector_distance('[1,0]', '[0,2]'), vector_distance('[1,0]', '[0,2]', 'cosine');
SELECT vector_distance('[3,4]', '[0,0]', 'l2'), vector_distance('[3,4]', '[0,0]', 'L1'), vector_distance('[3,4]', '[1,1]', 'ip');
SELECT vector_distance('[1,0]', '[1,0,0]');
SELECT vector_distance('[1,0]', '[1,0]', 'hamming');
SELECT vector_distance('[1,0]', '[1,0]', NULL);

-- Arithmetic, in 32-bit floats. A zero vector has no direction: normalized, it stays zero.
SELECT vector_json(vector_normalize('[3,4]')), vector_json(vector_normalize('[0,0]'));
SELECT vector_json(vector_add('[1,2]', '[10,20]')), vector_json(vector_sub('[1,2]', '[10,20]'));
SELECT vector_json(vector_scale('[1,2]', 0.5)), vector_json(vector_scale('[1,2]', -2));
SELECT vector_json(vector_slice('[0,1,2,3,4]', 1, 3)), vector_json(vector_slice('[0,1,2]', 0, 3));
SELECT vector_json(vector_int8(x'00017F80FF', 0.25));
SELECT vector_add('[1,2]', '[1]');
SELECT vector_add('[3e38]', '[3e38]');
SELECT vector_sub('[0,-3e38]', '[0,3e38]');
SELECT vector_scale('[3e38]', 2);
SELECT vector_scale('[1]', 'two');
SELECT vector_scale('[1]', 1e39);
SELECT vector_slice('[0,1,2]', 1, 4);
SELECT vector_slice('[0,1,2]', 2, 2);
SELECT vector_slice('[0,1,2]', '0', 2);
SELECT vector_int8('abc', 1);
SELECT vector_int8(x'', 1);

-- One row a dimension.
SELECT key, value FROM vector_each('[0.5,-2,3]');
SELECT key FROM vector_each('[0.5,-2,3]') ORDER BY value LIMIT 1;
SELECT t.column1, sum(value) FROM (VALUES('[1,2]'), ('[3]')) AS t, vector_each(t.column1) GROUP BY 1;
SELECT * FROM vector_each('[0.5');

-- Deltas as values: what they do.
SELECT delta_json(delta_create('[1,2]'));
SELECT delta_json(delta_dense('[1,2]'));
SELECT delta_json(delta_sparse('[17,3]', '[0.5,-1]'));
SELECT delta_json(delta_sparse(x'1100000003000000', x'0000003F000080BF'));
SELECT delta_json(delta_sparse('[7,8,9,10]', '[1,2,3,4]'));
SELECT delta_json(delta_sparse('[]', '[]'));
SELECT delta_json(delta_scale(0.9)), delta_json(delta_offset(-1)), delta_json(delta_delete());
SELECT delta_json(delta_diff('[1,2,3,4]', '[1,2,9,4]'));
SELECT delta_json(delta_diff('[1,2,3,4]', '[1,2,3,4]'));

-- And what they make of a vector.
SELECT vector_json(delta_patch('[1,2,3]', delta_sparse('[2,0]', '[30,10]')));
SELECT vector_json(delta_patch('[1,2,3]', delta_scale(0.5))), vector_json(delta_patch('[1,2,3]', delta_offset(0.5)));
SELECT vector_json(delta_patch('[1,2,3]', delta_dense('[4,5,6]'))), delta_patch('[1,2,3]', delta_delete());
SELECT vector_json(delta_patch('[1,2,3,4]', delta_diff('[1,2,3,4]', '[1,2,9,4]')));
SELECT vector_json(delta_patch(NULL, delta_create('[4,5]'))), delta_patch(NULL, delta_scale(2)), delta_patch('[1]', NULL);

-- A constructor never lets a wrong delta through.
SELECT delta_create(NULL);
SELECT delta_dense('[]');
SELECT delta_sparse(NULL, '[1]');
SELECT delta_sparse('[1]', NULL);
SELECT delta_sparse('[1,2]', '[1]');
SELECT delta_sparse('[]', '[1]');
SELECT delta_sparse('[1,1]', '[1,2]');
SELECT delta_sparse('[65536]', '[1]');
SELECT delta_sparse('[-1]', '[1]');
SELECT delta_sparse('[1.5]', '[1]');
SELECT delta_sparse(x'010000', '[1]');
SELECT delta_sparse('[1]', '[x]');
SELECT delta_scale(NULL);
SELECT delta_scale('2');
SELECT delta_offset(1e39);
SELECT delta_diff('[1,2]', '[1]');
SELECT delta_diff(NULL, '[1]');
SELECT delta_patch('[1,2]', delta_sparse('[2]', '[1]'));
SELECT delta_patch('[1,2]', delta_dense('[1]'));
SELECT delta_patch('[3e38]', delta_scale(2));
SELECT delta_patch('[1]', '[1]');
SELECT delta_patch('[1]', x'7ADE01');
SELECT delta_json(5);

-- Batches: frames with ids, and with times and metadata if given. No deltas make an empty batch.
SELECT length(delta_pack('a', delta_scale(2))), length(delta_pack('a', delta_scale(2), 1000)) FROM (SELECT 1);
SELECT hex(delta_pack('a', delta_delete(), '1970-01-01T00:00:01Z', '{"a":1}')) = hex(delta_pack('a', delta_delete(), 1000, '{"a":1}'));
SELECT hex(delta_pack(1, delta_delete(), NULL, NULL)) = hex(delta_pack(1, delta_delete()));
SELECT quote(delta_pack(key, delta_delete())) FROM vector_each(NULL);
SELECT delta_pack(NULL, delta_delete());
SELECT delta_pack(1.5, delta_delete());
SELECT delta_pack('a', NULL);
SELECT delta_pack('a', delta_delete(), 'soon');
SELECT delta_pack('a', delta_delete(), 1.5);
SELECT delta_pack('a', delta_delete(), 1, 5);
SELECT delta_json(batch) FROM (SELECT delta_pack('a', delta_delete()) AS batch);
