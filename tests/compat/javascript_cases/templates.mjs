// Templates by name; what is not served yet says so.

import { randomUUID } from 'node:crypto'

import { Sandbox, Secret, Template, Volume, assert, e2b, raised, scenario, withSandbox } from './kit.mjs'

export default [
  scenario(
    'Template.exists',
    'True for the default one, False for an unknown one',
    { also: ['Template.alias_exists'] },
    async () => {
      assert.equal(await Template.exists('base'), true)
      assert.equal(await Template.exists('no-such-template'), false)
      assert.equal(await Template.aliasExists('base'), true)
    },
  ),

  scenario(
    'Template.assign_tags',
    'shown by get_tags, usable in create, removed',
    { also: ['Template.get_tags', 'Template.remove_tags'] },
    async (shared) => {
      const name = 'tags-' + randomUUID().slice(0, 8)
      const tagsOf = async () => (await Template.getTags(name)).map((entry) => entry.tag).sort()
      // The team's own template: builds are not served yet.
      const saved = await (await shared.sandbox()).createSnapshot({ name })
      try {
        const info = await Template.assignTags(name, ['v1', 'v2'])
        assert.deepEqual(info.tags.sort(), ['v1', 'v2'])
        assert.deepEqual(await tagsOf(), ['default', 'v1', 'v2'])
        for (const entry of await Template.getTags(name)) assert.equal(entry.buildId, info.buildId)
        await withSandbox({ template: `${name}:v1` }, async (tagged) => {
          assert.equal((await tagged.commands.run('echo 1')).stdout, '1\n')
        })
        await Template.removeTags(name, ['v1'])
        assert.deepEqual(await tagsOf(), ['default', 'v2'])
      } finally {
        await Sandbox.deleteSnapshot(saved.snapshotId)
      }
    },
  ),

  scenario('Template.assign_tags', "the platform's own template is refused", async () => {
    await raised(Template.assignTags('base', 'v1'), e2b.TemplateError, '403')
  }),

  scenario('Template.assign_tags', 'an empty name or tag is refused', async () => {
    for (const [target, tag] of [
      [':x', 'y'],
      ['base', 'base:'],
      ['no-such-template', 'x'],
    ]) {
      await raised(Template.assignTags(target, tag), [e2b.TemplateError, e2b.SandboxError])
    }
  }),

  scenario(
    'Template.build',
    'not served yet: a clear 501',
    { also: ['Template.build_in_background', 'Template.get_build_status'] },
    async () => {
      const template = Template().fromBaseImage()
      await raised(Template.build(template, 'own'), e2b.BuildError, '501')
      await raised(Template.buildInBackground(template, 'own'), e2b.BuildError, '501')
      await raised(Template.getBuildStatus({ templateId: 'x', buildId: randomUUID() }), e2b.BuildError, '501')
    },
  ),

  scenario(
    'Volume.create',
    'not served yet: a clear error',
    { also: ['Volume.connect', 'Volume.get_info', 'Volume.list', 'Volume.destroy'] },
    async () => {
      for (const method of ['create', 'connect', 'getInfo', 'destroy']) {
        await raised(Volume[method]('v'), [e2b.VolumeError, e2b.NotFoundError], '501')
      }
      await raised(Volume.list(), [e2b.VolumeError, e2b.NotFoundError], '501')
    },
  ),

  scenario(
    'Secret.create',
    'not served yet: a clear error',
    { also: ['Secret.get_info', 'Secret.list', 'Secret.update', 'Secret.destroy', 'Secret.exists'] },
    async () => {
      await raised(Secret.create('name', 'value'), e2b.SecretError, '501')
      for (const method of ['getInfo', 'destroy', 'exists']) await raised(Secret[method]('s'), e2b.SecretError, '501')
      await raised(Secret.update('s', 'v'), e2b.SecretError, '501')
      await raised(Secret.list().nextItems(), e2b.SecretError, '501')
    },
  ),

  scenario('Secret.fill', 'a placeholder, made locally', { also: ['Secret.iam_token'] }, async () => {
    assert.match(Secret.fill('name'), /name/)
    assert.equal(Secret.iamToken({ audience: 'a', tokenType: 'JWT-SVID' }).audience, 'a')
  }),
]
