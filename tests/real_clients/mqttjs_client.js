// What a device does, all of it, with MQTT.js: run by mqttjs.rs with its settings as JSON.
// Ends with 0 if everything went as it should.

const assert = require('node:assert')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const mqtt = require('mqtt')

const PATIENCE = 30_000
const settings = JSON.parse(process.argv[2])
const isV5 = settings.version === 5
const topic = name => `${settings.topic}/${name}`

/** A connected client, whose messages wait until they are asked for. */
class Peer {
  constructor (name, { kept = false, will } = {}) {
    const scheme = settings.path ? 'wss' : 'mqtts'
    this.messages = []
    this.client = mqtt.connect(`${scheme}://${settings.host}:${settings.port}${settings.path ?? ''}`, {
      protocolVersion: settings.version,
      clientId: `${settings.topic.replace('/', '-')}-${name}`,
      clean: !kept,
      ca: fs.readFileSync(settings.ca),
      cert: settings.cert && fs.readFileSync(settings.cert),
      key: settings.key && fs.readFileSync(settings.key),
      username: settings.user ?? undefined,
      password: settings.password ?? undefined,
      will: will && { topic: topic('will'), payload: will, qos: 1, retain: false },
      properties: isV5 ? { sessionExpiryInterval: kept ? 60 : 0 } : undefined,
      reconnectPeriod: 0
    })
    this.client.on('message', (_topic, _payload, packet) => {
      this.messages.push(packet)
      this.client.emit('kept')
    })
  }

  static async connect (name, options) {
    const peer = new Peer(name, options)
    const [ack] = await once(peer.client, 'connect', { signal: AbortSignal.timeout(PATIENCE) })
    peer.sessionPresent = ack.sessionPresent
    return peer
  }

  async subscribe (name, qos) {
    const [granted] = await this.client.subscribeAsync(topic(name), { qos })
    assert.strictEqual(granted.qos, qos)
  }

  async publish (name, payload, options) {
    await this.client.publishAsync(topic(name), payload, options)
  }

  async next (name, payload, qos) {
    if (this.messages.length === 0) {
      await once(this.client, 'kept', { signal: AbortSignal.timeout(PATIENCE) })
    }
    const packet = this.messages.shift()
    assert.deepStrictEqual([packet.topic, packet.payload.toString(), packet.qos], [topic(name), payload, qos])
    return packet
  }

  async disconnect () {
    await this.client.endAsync()
  }
}

async function everyQualityBothWays (one, other) {
  await one.subscribe('to-one', 2)
  await other.subscribe('to-other', 2)
  for (const qos of [0, 1, 2]) {
    await one.publish('to-other', `ping ${qos}`, { qos })
    await other.next('to-other', `ping ${qos}`, qos)
    await other.publish('to-one', `pong ${qos}`, { qos })
    await one.next('to-one', `pong ${qos}`, qos)
  }
}

async function retained (one) {
  await one.publish('retained', 'kept', { qos: 1, retain: true })
  const late = await Peer.connect('late')
  await late.subscribe('retained', 1)
  assert((await late.next('retained', 'kept', 1)).retain)
  await one.publish('retained', '', { qos: 1, retain: true })
  await late.next('retained', '', 1)
  await late.disconnect()
}

async function will (other) {
  await other.subscribe('will', 1)
  const dying = spawn(process.execPath, [__filename, process.argv[2], 'die'], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(dying.stdout, 'data', { signal: AbortSignal.timeout(PATIENCE) })
  dying.kill('SIGKILL')
  await other.next('will', 'last words', 1)
}

async function persistentSession (one) {
  let away = await Peer.connect('away', { kept: true })
  assert(!away.sessionPresent)
  await away.subscribe('away', 2)
  await away.disconnect()
  for (const qos of [1, 2]) await one.publish('away', `waits ${qos}`, { qos })
  away = await Peer.connect('away', { kept: true })
  assert(away.sessionPresent)
  for (const qos of [1, 2]) await away.next('away', `waits ${qos}`, qos)
  await away.disconnect()
}

async function propertiesOfVersion5 (one, other) {
  const sent = { contentType: 'text/plain', responseTopic: 'answers', userProperties: { b: '1', a: ['2', '3'] } }
  await one.publish('to-other', 'with properties', { qos: 1, properties: sent })
  const { properties } = await other.next('to-other', 'with properties', 1)
  assert.strictEqual(properties.contentType, sent.contentType)
  assert.strictEqual(properties.responseTopic, sent.responseTopic)
  assert.deepEqual({ ...properties.userProperties }, sent.userProperties)
}

async function main () {
  if (process.argv[3]) {
    await Peer.connect('dying', { will: 'last words' })
    console.log('connected')
    return
  }
  const one = await Peer.connect('one')
  const other = await Peer.connect('other')
  await everyQualityBothWays(one, other)
  if (isV5) await propertiesOfVersion5(one, other)
  await retained(one)
  await will(other)
  await persistentSession(one)
  await one.disconnect()
  await other.disconnect()
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
