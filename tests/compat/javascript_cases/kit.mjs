// What the cases are made of. A case is a row of the table; its names are those of the Python SDK, so that all SDKs
// share the rows.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import http from 'node:http'
import https from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'

import * as e2b from 'e2b'

export { assert, e2b, sleep }
export const { Sandbox, Template, Volume, Secret } = e2b
export const MISSING = 'i' + '0'.repeat(19)

const CASE_SECONDS = 60
const WEB_SERVER = new URL('../guest_web_server.py', import.meta.url)

export class Case {
  constructor(method, title, options, run) {
    this.row = `${method} | ${title}`
    this.covers = [method, ...(options.also ?? [])]
    this.domain = options.domain ?? false
    this.seconds = options.seconds ?? CASE_SECONDS
    this.run = run
  }
}

// scenario(method, title, options?, run): `also` are other methods that the case is the row of, `domain` says that
// what is checked depends on the mode.
export function scenario(method, title, ...rest) {
  const run = rest.pop()
  return new Case(method, title, rest[0] ?? {}, run)
}

// What the cases share.
export class Shared {
  #sandbox
  #serving = false

  // One sandbox for all cases that leave it as it was.
  async sandbox() {
    if (!this.#sandbox) {
      this.#sandbox = await Sandbox.create({ timeoutMs: 1_800_000 })
      this.#serving = false
    }
    return this.#sandbox
  }

  // After a case that failed nothing is known about it.
  async renew() {
    await this.#sandbox?.kill().catch(() => {})
    this.#sandbox = undefined
  }

  // With the web server on 8080, and on 8081 where only the guest's loopback reaches it.
  async serving() {
    const sandbox = await this.sandbox()
    if (!this.#serving) {
      await serve(sandbox, '0.0.0.0:8080', '127.0.0.1:8081')
      this.#serving = true
    }
    return sandbox
  }
}

// A sandbox of one case's own.
export async function withSandbox(options, use) {
  const sandbox = await Sandbox.create({ timeoutMs: 120_000, ...options })
  try {
    return await use(sandbox)
  } finally {
    await sandbox.kill().catch(() => {})
  }
}

// Returns when all places listen; the server outlives the command.
export async function serve(sandbox, ...places) {
  await sandbox.files.write('/tmp/web.py', await readFile(WEB_SERVER, 'utf8'))
  const server = `setsid python3 -IS /tmp/web.py ${places.join(' ')} </dev/null 2>/tmp/web.log`
  await sandbox.commands.run(`read -r < <(${server})`, { timeoutMs: 60_000 })
}

// The first true answer; the SDK has no event for what is asked here.
export async function until(question, seconds = 20) {
  const deadline = performance.now() + seconds * 1000
  for (;;) {
    const answer = await question()
    if (answer) return answer
    if (performance.now() > deadline) throw new Error(`not within ${seconds} s`)
    await sleep(100)
  }
}

// The error that a promise is rejected with; it must be of one of the kinds.
export async function raised(promise, kinds, saying = '') {
  let error
  try {
    await promise
  } catch (caught) {
    error = caught
  }
  const names = [kinds].flat().map((kind) => kind.name)
  assert.ok(error, `none of ${names} was raised`)
  assert.ok([kinds].flat().some((kind) => error instanceof kind), `${error.name} (${error.message}) is none of ${names}`)
  assert.ok(error.message.includes(saying), `${error.name} says ${error.message}, not ${saying}`)
  return error
}

export async function allItems(paginator) {
  const found = []
  while (paginator.hasNext) found.push(...(await paginator.nextItems()))
  return found
}

// Address and headers of a user's port: by name in domain mode, by headers on the one plain port.
export function portUrl(sandbox, port, path = '/') {
  const loopback = process.env.E2B_SANDBOX_URL
  if (!loopback) return [`https://${sandbox.getHost(port)}${path}`, {}]
  return [loopback + path, { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) }]
}

// A plain HTTP client's request, as a program beside the SDK makes it: {status, body, socket?}.
export function request(url, { headers = {}, method = 'GET', body } = {}) {
  const client = url.startsWith('https:') ? https : http
  return new Promise((resolve, reject) => {
    const sent = client.request(url, { headers, method, agent: false }, async (response) => {
      let text = ''
      for await (const chunk of response.setEncoding('utf8')) text += chunk
      resolve({ status: response.statusCode, body: text })
    })
    sent.on('upgrade', (response, socket, head) => resolve({ status: response.statusCode, socket, head }))
    sent.on('error', reject)
    sent.end(body)
  })
}

export async function get(sandbox, port, path = '/', headers = {}) {
  const [url, routing] = portUrl(sandbox, port, path)
  return request(url, { headers: { ...routing, ...headers } })
}

export function outside() {
  const [host, port] = process.env.COMPAT_OUTSIDE.split(':')
  return { host, port }
}
