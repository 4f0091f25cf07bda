# The one list of sources. Its order is the order of the single-file build, and a good order to read in.
#
# Files are found by looking, so a new one takes part without being named here. A name below only says where the file
# stands; files not named follow their directory's named ones, in alphabetical order. A name without a file is an error.

set(DV_CORE_ORDER
  core/simd/scalar.c core/simd/avx2.c core/simd/avx512.c core/simd/neon.c core/simd/wasm128.c core/simd/dispatch.c
  core/dv_checksum.c core/dv_vector.c core/dv_metric.c core/dv_delta.c core/dv_frame.c
  core/dv_quant.c core/dv_sketch.c core/dv_topk.c core/dv_flat.c core/dv_hnsw.c)

set(DV_EXT_ORDER
  ext/text.c ext/time.c ext/host.c ext/pages.c ext/config.c ext/shadow.c ext/log.c ext/ids.c ext/table.c ext/row.c
  ext/txn.c ext/settle.c ext/mirror.c ext/graph.c ext/columns.c ext/filter.c ext/search.c ext/write.c ext/vtab.c
  ext/history.c ext/exchange.c ext/apply.c ext/compact.c ext/salvage.c ext/integrity.c ext/status.c ext/functions.c ext/extension.c)

# out = the named files, then the other files that the patterns find; all relative to the repository.
function(dv_find_sources out order)
  set(patterns ${ARGN})
  list(TRANSFORM patterns PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/")
  file(GLOB found CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" ${patterns})
  list(SORT found)
  foreach(name IN LISTS ${order})
    if(NOT name IN_LIST found)
      message(FATAL_ERROR "cmake/sources.cmake names ${name}, which does not exist")
    endif()
  endforeach()
  set(files ${${order}} ${found})
  list(REMOVE_DUPLICATES files)
  set(${out} ${files} PARENT_SCOPE)
endfunction()

dv_find_sources(DV_CORE_SOURCES DV_CORE_ORDER core/*.c core/simd/*.c)
dv_find_sources(DV_EXT_SOURCES DV_EXT_ORDER ext/*.c)
dv_find_sources(DV_HEADERS "" core/*.h core/simd/*.h ext/*.h)
