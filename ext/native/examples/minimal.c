/* minimal.c: a table, three rows, a change, a search now and as it was. cc minimal.c $(pkg-config --cflags --libs delta_vectors) */
#include <delta_vectors.h>
#include <stdio.h>

static void search(dvec_db *db, const char *title, const dvec_search_options *options) {
  const float query[3] = {1, 0, 0};
  dvec_hits *hits = NULL;
  if (dvec_search(db, "docs", query, 3, options, &hits) != DVEC_OK) printf("%s\n", dvec_message(db));
  for (size_t i = 0; i < dvec_hits_count(hits); i++)
    printf("%s: %s %.4f\n", title, dvec_hits_at(hits, i)->id.text, dvec_hits_at(hits, i)->distance);
  dvec_hits_free(hits);
}

int main(void) {
  const char *ids[3] = {"apple", "banana", "hammer"};
  const float vectors[3][3] = {{0.9f, 0.1f, 0}, {0.8f, 0.3f, 0.1f}, {0, 0.2f, 0.9f}};
  dvec_db *db = NULL;
  dvec_table_options table = {.size = sizeof table, .dimensions = 3};
  if (dvec_open(":memory:", NULL, &db) != DVEC_OK || dvec_create_table(db, "docs", &table) != DVEC_OK) {
    printf("%s\n", dvec_message(db));
    return 1;
  }
  for (int i = 0; i < 3; i++) {
    dvec_delta create = {.size = sizeof create, .operation = DVEC_CREATE, .id = dvec_id_text(ids[i]), .time = 1000};
    create.values = vectors[i], create.n = 3;
    if (dvec_apply(db, "docs", &create, NULL) != DVEC_OK) printf("%s\n", dvec_message(db));
  }
  dvec_delta change = {.size = sizeof change, .operation = DVEC_SPARSE, .id = dvec_id_text("hammer"), .time = 2000};
  change.indices = (const uint32_t[]){0}, change.values = (const float[]){9}, change.n = 1;
  if (dvec_apply(db, "docs", &change, NULL) != DVEC_OK) printf("%s\n", dvec_message(db));
  search(db, "now", &(dvec_search_options){.size = sizeof(dvec_search_options), .k = 2});
  search(db, "before",
         &(dvec_search_options){.size = sizeof(dvec_search_options), .k = 2, .has_as_of = 1, .as_of = 1500});
  return dvec_close(db);
}
