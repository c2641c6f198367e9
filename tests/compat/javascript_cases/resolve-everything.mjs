// Preloaded in domain mode: every name is the edge on loopback, as a wildcard record would have it.

import dns from 'node:dns'

dns.lookup = (_name, options, answer) => {
  const done = typeof options === 'function' ? options : answer
  const all = typeof options === 'object' && options?.all
  process.nextTick(() => (all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)))
}
