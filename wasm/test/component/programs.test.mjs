// The programs of programs.mjs in Node and in wasmtime.
import { after, before, beforeEach, describe, it } from 'node:test';
import { killHosts, nodeHost, wasmtimeHost } from './hosts.mjs';
import { programs } from './programs.mjs';

for (const makeHost of [nodeHost, wasmtimeHost]) {
  describe(makeHost.name, () => {
    let host;
    before(async () => (host = await makeHost()));
    beforeEach(() => host.start());
    after(() => host.close());
    for (const [name, program] of Object.entries(programs)) {
      it(name, async (t) => {
        const skipped = await program(host);
        if (skipped) t.diagnostic(skipped);
      });
    }
  });
}

after(killHosts);
