// Files and directories in the sandbox.

import { createHash, randomBytes } from 'node:crypto'

import { assert, e2b, raised, request, scenario, withSandbox } from './kit.mjs'

const bytes = async (sandbox, path, options = {}) =>
  Buffer.from(await sandbox.files.read(path, { format: 'bytes', ...options }))

const sha256 = (data) => createHash('sha256').update(data).digest('hex')

async function chunks(stream) {
  const found = []
  for await (const chunk of stream) found.push(chunk)
  return found
}

// What a browser's form sends for one file.
function form(name, text) {
  const body =
    `--border\r\nContent-Disposition: form-data; name="file"; filename="${name}"\r\n` +
    `Content-Type: application/octet-stream\r\n\r\n${text}\r\n--border--\r\n`
  return { method: 'POST', body, headers: { 'Content-Type': 'multipart/form-data; boundary=border' } }
}

export default [
  scenario(
    'files.write',
    'text, bytes, nothing; replaces; makes directories',
    { also: ['files.read'], domain: true },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const path = 'w/new/ä ü.txt'
      const info = await sandbox.files.write(path, 'long text ä\n')
      assert.deepEqual([info.name, info.path, info.type], ['ä ü.txt', `/home/user/${path}`, e2b.FileType.FILE])
      assert.equal(await sandbox.files.read(path), 'long text ä\n')
      await sandbox.files.write(path, new Uint8Array([0, 255]).buffer)
      assert.deepEqual([...(await bytes(sandbox, path))], [0, 255])
      await sandbox.files.write(path, '')
      assert.equal(await sandbox.files.read(path), '')
      assert.equal(
        (await sandbox.commands.run("stat -c '%U %G %a' w/new 'w/new/ä ü.txt'")).stdout,
        'user user 755\nuser user 644\n',
      )
    },
  ),

  scenario('files.write', 'from a Blob and from a stream', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    const data = randomBytes(300_000)
    await sandbox.files.write('/tmp/from-blob', new Blob([data]))
    assert.ok(data.equals(await bytes(sandbox, '/tmp/from-blob')))
    await sandbox.files.write('/tmp/from-stream', new Blob([data]).stream())
    assert.ok(data.equals(await bytes(sandbox, '/tmp/from-stream')))
  }),

  scenario('files.write', 'as a form, as octets, packed (gzip)', { also: ['files.read'] }, async (shared) => {
    const sandbox = await shared.sandbox()
    const data = Buffer.from('0123456789'.repeat(20_000))
    const ways = [{}, { useOctetStream: false }, { useOctetStream: true }, { gzip: true }]
    for (const [number, options] of ways.entries()) {
      const path = `/tmp/encoded-${number}`
      await sandbox.files.write(path, new Blob([data]), options)
      assert.ok(data.equals(await bytes(sandbox, path)))
      assert.ok(data.equals(await bytes(sandbox, path, { gzip: true })))
    }
  }),

  scenario(
    'files.write',
    'metadata: shown by get_info and list, replaced by each write',
    { also: ['files.get_info'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      for (const useOctetStream of [false, true]) {
        const metadata = { kind: 'a b', more: '1' }
        const info = await sandbox.files.write('/tmp/meta/file', 'x', { metadata, useOctetStream })
        assert.deepEqual(info.metadata, metadata)
        assert.deepEqual((await sandbox.files.getInfo('/tmp/meta/file')).metadata, metadata)
        assert.deepEqual((await sandbox.files.list('/tmp/meta'))[0].metadata, metadata)
        await sandbox.files.write('/tmp/meta/file', 'x', { metadata: { other: '2' }, useOctetStream })
        assert.deepEqual((await sandbox.files.getInfo('/tmp/meta/file')).metadata, { other: '2' })
        await sandbox.files.write('/tmp/meta/file', 'x', { useOctetStream })
        assert.deepEqual((await sandbox.files.getInfo('/tmp/meta/file')).metadata ?? {}, {})
      }
    },
  ),

  scenario('files.write', 'as root; a place that the user may not write to is refused', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('/etc/of-root', 'x', { user: 'root' })
    const info = await sandbox.files.getInfo('/etc/of-root')
    assert.deepEqual([info.owner, info.group], ['root', 'root'])
    await sandbox.files.write('of-root', 'x', { user: 'root' })
    assert.ok(await sandbox.files.exists('/root/of-root', { user: 'root' }))
  }),

  scenario('files.write', 'a directory, or a path below a file, is refused', async (shared) => {
    const sandbox = await shared.sandbox()
    await raised(sandbox.files.write('/tmp', 'x'), e2b.SandboxError)
    await sandbox.files.write('/tmp/a-file', 'x')
    await raised(sandbox.files.write('/tmp/a-file/below', 'x'), e2b.SandboxError)
  }),

  scenario('files.write', 'a full disk raises NotEnoughSpaceException and leaves the old file', async () => {
    await withSandbox({}, async (sandbox) => {
      await sandbox.files.write('/home/user/old', 'old')
      const fill = 'fallocate -l $(($(stat -f -c %a /home) * $(stat -f -c %S /home) - 2000000)) /home/user/fill'
      await sandbox.commands.run(fill, { user: 'root' })
      const data = new Blob([randomBytes(8_000_000)])
      await raised(sandbox.files.write('/home/user/old', data), e2b.NotEnoughSpaceError)
      assert.equal(await sandbox.files.read('/home/user/old'), 'old')
      assert.equal((await sandbox.commands.run('echo 1')).stdout, '1\n')
    })
  }),

  scenario('files.write_files', 'many at once; none makes no request', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    const entries = [...Array(10).keys()].map((n) => ({ path: `/tmp/many/${n}/file`, data: `text ${n}` }))
    entries.push({ path: 'many-relative', data: new Blob(['bytes']) })
    const infos = await sandbox.files.writeFiles(entries)
    assert.deepEqual(
      infos.map((info) => info.path),
      [...entries.slice(0, 10).map((entry) => entry.path), '/home/user/many-relative'],
    )
    assert.equal(await sandbox.files.read('/tmp/many/9/file'), 'text 9')
    assert.equal(await sandbox.files.read('many-relative'), 'bytes')
    assert.equal((await sandbox.files.write(entries.slice(0, 2))).length, 2)
    assert.deepEqual(await sandbox.files.writeFiles([]), [])
  }),

  scenario('files.read', 'text, bytes, stream', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('/tmp/read', 'text ä')
    assert.equal(await sandbox.files.read('/tmp/read'), 'text ä')
    assert.equal((await bytes(sandbox, '/tmp/read')).toString(), 'text ä')
    const stream = await sandbox.files.read('/tmp/read', { format: 'stream' })
    assert.equal(Buffer.concat(await chunks(stream)).toString(), 'text ä')
  }),

  scenario('files.read', 'as a Blob', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('/tmp/blob', 'text ä')
    assert.equal(await (await sandbox.files.read('/tmp/blob', { format: 'blob' })).text(), 'text ä')
  }),

  scenario(
    'files.read',
    '20 MB both ways, whole and as a stream',
    { also: ['files.write'], domain: true },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const data = randomBytes(20_000_000)
      await sandbox.files.write('/tmp/large', new Blob([data]))
      const digest = sha256(data)
      assert.equal((await sandbox.commands.run('sha256sum /tmp/large')).stdout.split(' ')[0], digest)
      assert.equal(sha256(await bytes(sandbox, '/tmp/large')), digest)
      const pieces = await chunks(await sandbox.files.read('/tmp/large', { format: 'stream' }))
      assert.ok(pieces.length > 1)
      assert.equal(sha256(Buffer.concat(pieces)), digest)
      await sandbox.files.remove('/tmp/large')
    },
  ),

  scenario('files.read', 'missing files, directories; files of /proc', async (shared) => {
    const sandbox = await shared.sandbox()
    await raised(sandbox.files.read('/no/such/file'), e2b.FileNotFoundError)
    await raised(sandbox.files.read('/tmp'), e2b.SandboxError)
    assert.equal((await sandbox.files.read('/proc/sys/kernel/random/boot_id')).length, 37)
    assert.equal((await sandbox.files.read('/proc/sys/kernel/random/boot_id', { gzip: true })).length, 37)
    assert.match(await sandbox.files.read('/proc/meminfo'), /MemTotal/)
  }),

  scenario('files.read', 'absolute, relative and ~ paths; as another user', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('of-user', 'user')
    for (const path of ['of-user', '~/of-user', '/home/user/of-user']) {
      assert.equal(await sandbox.files.read(path), 'user')
    }
    await sandbox.files.write('of-user', 'root', { user: 'root' })
    assert.equal(await sandbox.files.read('/root/of-user', { user: 'root' }), 'root')
    await raised(sandbox.files.read('of-user', { user: 'nobody-of-that-name' }), e2b.AuthenticationError)
  }),

  scenario(
    'files.list',
    "order, depth, fields; symbolic links have their target's type",
    async (shared) => {
      const sandbox = await shared.sandbox()
      await sandbox.commands.run(
        'mkdir -p l/b/deep l/a && echo hello >l/c && chmod 640 l/c && ln -s c l/link && ln -s b l/to-b && touch l/b/deep/x',
      )
      const entries = await sandbox.files.list('l')
      const { FILE, DIR } = e2b.FileType
      assert.deepEqual(
        entries.map((entry) => [entry.name, entry.type]),
        [
          ['a', DIR],
          ['b', DIR],
          ['c', FILE],
          ['link', FILE],
          ['to-b', DIR],
        ],
      )
      const [plain, link] = entries.slice(2)
      assert.deepEqual(
        [plain.path, plain.size, plain.mode, plain.permissions, plain.owner, plain.group],
        ['/home/user/l/c', 6, 0o640, '-rw-r-----', 'user', 'user'],
      )
      assert.ok(Math.abs(Date.now() - plain.modifiedTime.getTime()) < 60_000)
      assert.equal(link.symlinkTarget, '/home/user/l/c')
      const deep = await sandbox.files.list('/home/user/l', { depth: 3 })
      assert.deepEqual(
        deep.map((entry) => entry.path.replace('/home/user/l/', '')),
        ['a', 'b', 'b/deep', 'b/deep/x', 'c', 'link', 'to-b'],
      )
    },
  ),

  scenario('files.list', 'missing, not a directory, depth 0', async (shared) => {
    const sandbox = await shared.sandbox()
    await raised(sandbox.files.list('/no/such/directory'), e2b.NotFoundError)
    await raised(sandbox.files.list('/etc/passwd'), e2b.InvalidArgumentError)
    await raised(sandbox.files.list('/tmp', { depth: 0 }), e2b.InvalidArgumentError)
    await sandbox.files.makeDir('/tmp/empty-directory')
    assert.deepEqual(await sandbox.files.list('/tmp/empty-directory'), [])
  }),

  scenario('files.exists', 'files, directories, nothing', async (shared) => {
    const sandbox = await shared.sandbox()
    assert.equal(await sandbox.files.exists('/etc/passwd'), true)
    assert.equal(await sandbox.files.exists('/tmp'), true)
    assert.equal(await sandbox.files.exists('/no/such/file'), false)
  }),

  scenario('files.get_info', 'files, directories, links, nothing', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('/tmp/info/file', 'hello')
    await sandbox.commands.run('ln -sf file /tmp/info/link')
    const info = await sandbox.files.getInfo('/tmp/info/file')
    assert.deepEqual(
      [info.name, info.path, info.type, info.size, info.mode, info.permissions, info.owner],
      ['file', '/tmp/info/file', e2b.FileType.FILE, 5, 0o644, '-rw-r--r--', 'user'],
    )
    const directory = await sandbox.files.getInfo('/tmp/info')
    assert.deepEqual([directory.type, directory.permissions], [e2b.FileType.DIR, 'drwxr-xr-x'])
    assert.ok(directory.size > 0)
    const link = await sandbox.files.getInfo('/tmp/info/link')
    assert.deepEqual([link.type, link.symlinkTarget], [e2b.FileType.FILE, '/tmp/info/file'])
    await raised(sandbox.files.getInfo('/no/such/file'), e2b.NotFoundError)
  }),

  scenario('files.make_dir', 'True with its parents, False when it exists; refused over a file', async (shared) => {
    const sandbox = await shared.sandbox()
    assert.equal(await sandbox.files.makeDir('made/by/us'), true)
    assert.equal(await sandbox.files.makeDir('made/by/us'), false)
    assert.equal((await sandbox.files.getInfo('made/by')).owner, 'user')
    await raised(sandbox.files.makeDir('/etc/passwd'), e2b.InvalidArgumentError)
  }),

  scenario('files.rename', 'files and directories; a missing one is not found', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('/tmp/rename/old', 'x')
    const info = await sandbox.files.rename('/tmp/rename/old', '/tmp/rename/deep/new')
    assert.deepEqual([info.name, info.path, info.size], ['new', '/tmp/rename/deep/new', 1])
    assert.ok(!(await sandbox.files.exists('/tmp/rename/old')))
    await sandbox.files.rename('/tmp/rename/deep', '/tmp/rename/other')
    assert.equal(await sandbox.files.read('/tmp/rename/other/new'), 'x')
    await raised(sandbox.files.rename('/tmp/rename/old', '/tmp/rename/x'), e2b.NotFoundError)
  }),

  scenario('files.remove', 'files, whole directories, nothing', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('/tmp/remove/deep/file', 'x')
    await sandbox.files.remove('/tmp/remove/deep/file')
    assert.ok(!(await sandbox.files.exists('/tmp/remove/deep/file')))
    await sandbox.files.remove('/tmp/remove')
    assert.ok(!(await sandbox.files.exists('/tmp/remove')))
    await sandbox.files.remove('/tmp/remove')
  }),

  scenario(
    'Sandbox.download_url',
    'signed; with an end; past it; of another file; by a plain client',
    { domain: true },
    async (shared) => {
      const sandbox = await shared.sandbox()
      await sandbox.files.write('signed ä.txt', 'signed text')
      const url = await sandbox.downloadUrl('signed ä.txt')
      assert.deepEqual(await request(url), { status: 200, body: 'signed text' })
      const bounded = await sandbox.downloadUrl('signed ä.txt', { user: 'user', useSignatureExpiration: 60 })
      assert.deepEqual(await request(bounded), { status: 200, body: 'signed text' })
      const late = await request(await sandbox.downloadUrl('signed ä.txt', { useSignatureExpiration: -60 }))
      assert.deepEqual([late.status, JSON.parse(late.body)], [401, { code: 401, message: 'signature is already expired' }])
      const other = await request(url.replace(/signed(\+|%20)/, 'other$1'))
      assert.equal(other.status, 401)
    },
  ),

  scenario('Sandbox.upload_url', 'signed, as a form; with an end; past it', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    for (const [number, options] of [{}, { useSignatureExpiration: 60 }, { user: 'user' }].entries()) {
      const name = `uploaded-${number}`
      const answer = await request(await sandbox.uploadUrl(name, options), form(name, 'uploaded'))
      assert.equal(answer.status, 200, answer.body)
      assert.equal(await sandbox.files.read(name), 'uploaded')
    }
    const late = await sandbox.uploadUrl('uploaded', { useSignatureExpiration: -60 })
    assert.equal((await request(late, form('uploaded', 'x'))).status, 401)
  }),
]
