export { PushClient, type PushClientOptions } from './client.js';
export { useConnection, usePushClient, useTopic, useTopics } from './hooks.js';
export { PushProvider, type PushProviderProps } from './provider.js';
// All of it by `*`: TypeScript merges an augmentation of TopicPayloads only with a name exported like this.
export * from './types.js';
