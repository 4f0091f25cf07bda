/*
 * replay.c: a main() for fuzz targets without libFuzzer. Runs the target once on every file in the directories given,
 * so that what a fuzzer once found is tested in every build.
 */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void replay(const char *path) {
  FILE *file = fopen(path, "rb");
  long size;
  if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET)) {
    perror(path);
    exit(2);
  }
  /* Exactly as large as the input, so that valgrind and the sanitizers see a read past its end. */
  uint8_t *data = malloc((size_t)size);
  if ((!data && size) || fread(data, 1, (size_t)size, file) != (size_t)size) {
    perror(path);
    exit(2);
  }
  fclose(file);
  LLVMFuzzerTestOneInput(data, (size_t)size);
  free(data);
}

int main(int argc, char **argv) {
  int n_inputs = 0;
  LLVMFuzzerTestOneInput(NULL, 0);
  for (int i = 1; i < argc; i++) {
    DIR *directory = opendir(argv[i]);
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
      char path[4096];
      if (entry->d_name[0] == '.') continue;
      snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
      replay(path);
      n_inputs++;
    }
    if (directory) closedir(directory);
  }
  printf("%d inputs replayed\n", n_inputs);
  return 0;
}
